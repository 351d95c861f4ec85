"""A module that takes two seconds to load, as sympy does on a slow machine."""

import time

time.sleep(2.0)
