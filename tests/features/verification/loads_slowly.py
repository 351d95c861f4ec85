"""A module that takes four seconds to load, as sympy does on a slow machine."""

import time

time.sleep(4.0)
