"""Fails on purpose, after printing something and setting a variable worth a look."""

print("About to fail ...")
numbers = [1, 2, 0]
for number in numbers:
    print(f"10 / {number} = {10 / number}")
