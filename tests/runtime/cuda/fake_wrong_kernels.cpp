// posedge's kernels for the stand-in driver with one mistake: grey levels are cut instead of rounded.
#include <cmath>
#include <cstring>
#define rintf floorf
#include "fake_posedge_kernels.cpp"
