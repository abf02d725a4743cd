"""Before torch is imported: one thread, as a tiny model only waits for a second one."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
