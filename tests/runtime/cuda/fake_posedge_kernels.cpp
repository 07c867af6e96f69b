// posedge's own kernels for the stand-in driver: kernels.cu as C++, by the shim that tests their arithmetic.
#include "shim.cpp"

#include "fake_kernels.hpp"
EVERY_KERNEL(FAKE_KERNEL)
