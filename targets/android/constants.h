/* Made from targets/harness/constants.json by `python -m tests.support.constants`; the meanings are in constants.py there. */
#ifndef EDGEDISTILL_CONSTANTS_H
#define EDGEDISTILL_CONSTANTS_H

#define WARM_UP_WINDOW 25
#define WARM_UP_AGREEMENT 0.02
#define WARM_UP_LEAST_S 1.0
#define WARM_UP_LEAST_SHARE 0.25
#define WARM_UP_MOST_S 30.0
#define WARM_UP_MOST_TIMES 10.0
#define SAMPLING_LEAST 368
#define SAMPLING_MOST_TIMES 10.0
#define BURSTS_LEAD_S 0.001
#define BURSTS_LEAST_S 0.01
#define BURSTS_LEAST 3
#define BURSTS_NEAR 0.05
#define BURSTS_MODES 0.9
#define DUET_NOISE 0.005
#define DUET_SAME 0.1
#define DUET_LEAST_SETS 3
#define LATENCY_LEAST_CLEAN 30
#define LATENCY_CONTAMINATED 0.05
#define LATENCY_DRIFTED 0.05
#define LATENCY_SIBLINGS_BUSY 0.1
#define LATENCY_STOLEN 0.02
#define CHECK_TIMED_REQUESTS 32
#define CHECK_RESAMPLES 1000
#define ENERGY_WINDOW_S 10.0
#define ENERGY_WINDOWS 3
#define ENERGY_WARM_UP_S 4.0
#define ENERGY_IDLE_AGREEMENT 0.05
#define SOAK_BIN_S 1.0
#define SOAK_MOST_BINS 3600
#define SOAK_WARM_UP_S 4.0
#define SOAK_SLOWER 1.05
#define SOAK_CLOCK_FELL 0.97

#endif
