"""Genotype products over several processes or machines: variants are sharded, samples are not.

Workers of dask.distributed hold the packed genotypes of their variants, which they read themselves, and run the
products of one machine over them.  Everything that is computed there is a pure task, so what a lost worker held is
computed again elsewhere.  Parts are summed in a tree over shards that the data fix, so results have the same bits for
any number of workers.  docs/cluster.md says how to start them.
"""
