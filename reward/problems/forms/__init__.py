"""Forms in which problems come (``known``), and their conversion: tests that are Python (``asserted``), or calls (``called``)."""
