// Made from targets/harness/constants.json by `python -m tests.support.constants`; the meanings are in constants.py there.

export const WARM_UP = {"window": 25, "agreement": 0.02, "least_s": 1.0, "least_share": 0.25, "most_s": 30.0, "most_times": 10.0};
export const SAMPLING = {"least": 368, "most_times": 10.0};
export const BURSTS = {"lead_s": 0.001, "least_s": 0.01, "least": 3, "near": 0.05, "modes": 0.9};
export const DUET = {"noise": 0.005, "same": 0.1, "least_sets": 3, "t975": [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042]};
export const LATENCY = {"percentiles": {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}, "least_clean": 30, "contaminated": 0.05, "drifted": 0.05, "siblings_busy": 0.1, "stolen": 0.02};
export const CHECK = {"timed_requests": 32, "resamples": 1000};
export const ENERGY = {"window_s": 10.0, "windows": 3, "warm_up_s": 4.0, "idle_agreement": 0.05};
export const SOAK = {"bin_s": 1.0, "most_bins": 3600, "warm_up_s": 4.0, "slower": 1.05, "clock_fell": 0.97};
