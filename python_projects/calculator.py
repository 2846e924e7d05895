"""A few sums, some of them from the command line: calculator.py 6 7."""

import sys


def add(a, b):
    return a + b


def multiply(a, b):
    return a * b


def divide(a, b):
    if b == 0:
        raise ValueError("Cannot divide by zero")
    return a / b


if __name__ == "__main__":
    a, b = (float(arg) for arg in sys.argv[1:3]) if len(sys.argv) > 2 else (10, 5)
    print(f"{a:g} + {b:g} = {add(a, b):g}")
    print(f"{a:g} * {b:g} = {multiply(a, b):g}")
    print(f"{a:g} / {b:g} = {divide(a, b):g}")
