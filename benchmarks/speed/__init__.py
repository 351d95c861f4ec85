"""Speed compared with other libraries and with lower bounds."""
