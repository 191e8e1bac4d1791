"""What a keep-alive request costs, in numbers that a noisy machine does not change.

    python -m benchmarks.guard            # count, and compare with numbers.json
    python -m benchmarks.guard --update   # count, and write what was found there

Both backends are counted with three loads (load.py): one URL over and over, which a client can
remember, one request at a time; "varied", where every URL, request header and response head is
another one; and "20", the one URL with so many in flight.

Instructions: those of a whole `fetch()` outside the kernel, counted by valgrind, in units of the
same exchange written by hand. The unit takes out the most of what differs between builds of one
Python version; between versions it does not, so numbers.json has them by version. More than 10 %
above what is written there is a regression.

System calls: no more of any kind than numbers.json has, nor than `LIMITS` of numbers.py, up to the
quarter of a call for those that belong to no single request. Fewer are told, and are no regression.

It needs Linux, valgrind, strace and a C compiler. What runs in the tests is tests/guard.
"""
