"""Several tiers on one fleet: patterns, priced on whole grids, and the mix of them that is best, proven.

``demand`` says what is asked for; ``shapes`` and ``cuts`` what a replica may look like; ``timetable``,
``whole``, ``split`` and ``drafted`` price it; ``space`` goes through all of it and fills a book of
``columns``.
``master`` chooses replicas (an integer program), ``audit`` judges it, ``choose`` knows the objectives,
``deploy`` solves the chosen cuts exactly, ``conflict`` says why nothing works, ``economics`` what it earns.
"""
