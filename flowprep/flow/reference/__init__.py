"""TV-L1 and Brox flow in plain NumPy, float64: slow, and meant to be compared with the definitions line by line.

What the fast engines are tested against; nothing else uses it.
"""
