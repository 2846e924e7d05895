"""The smallest thing that can be run."""

print("Hello, World!")
print("This is a test Python script.")
