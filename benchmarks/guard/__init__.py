"""What a keep-alive request costs, in numbers that a noisy machine does not change.

    python -m benchmarks.guard            # count, and compare with numbers.json
    python -m benchmarks.guard --update   # count, and write what was found there

Instructions: those of a whole `fetch()` outside the kernel, counted by valgrind, in units of the
same exchange written by hand (load.py). The unit takes out the most of what differs between builds
of one Python version; between versions it does not, so numbers.json has them by version. More than
10 % above what is written there is a regression.

System calls: exactly those of numbers.json, and never more than `LIMITS` of numbers.py.

It needs Linux, valgrind, strace and a C compiler. What runs in the tests is tests/guard.
"""
