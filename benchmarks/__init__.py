"""Ours beside its peers, in one run on the machine at hand; only the ratios mean anything elsewhere.

python -m benchmarks             the table of benchmarks/RESULTS.md (make bench)
python -m benchmarks.failover    how long nobody is served without the leader (make failover)
python -m benchmarks.isolation   what puts cost beside a client that misbehaves (make isolation)
python -m benchmarks.scale       a node with a million keys (make scale)
"""
