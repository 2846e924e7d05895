"""Draws two curves; the picture comes back with the result."""

import math

import matplotlib.pyplot as plt

x = [i / 20 for i in range(200)]
plt.plot(x, [math.sin(v) for v in x], label="sin")
plt.plot(x, [math.exp(-v / 4) * math.cos(3 * v) for v in x], label="damped cos")
plt.title("Two curves")
plt.legend()
plt.show()
print("Drawn.")
