// Autocast for PrivateUse1, by torch's own lists; CUDA and XPU have theirs in every build.
#include "kernels.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

namespace accel_simulator {

void register_autocast() {
  using at::Scalar;
  using at::ScalarType;
  using at::Tensor;
  using at::IntArrayRef;
  using at::autocast::CastPolicy;
  static torch::Library rest(
      torch::Library::IMPL, "_", c10::DispatchKey::AutocastPrivateUse1, __FILE__, __LINE__);
  rest.fallback(torch::CppFunction::makeFallthrough());
  static torch::Library m(
      torch::Library::IMPL, "aten", c10::DispatchKey::AutocastPrivateUse1, __FILE__, __LINE__);
#define ACCEL_LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define ACCEL_FP32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define ACCEL_DTYPE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define ACCEL_PROMOTE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_LOWER_PRECISION_FP(ACCEL_LOWER)
  AT_FORALL_FP32(ACCEL_FP32)
  AT_FORALL_FP32_SET_OPT_DTYPE(ACCEL_DTYPE)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
  AT_FORALL_PROMOTE(ACCEL_PROMOTE)
  KERNEL_PRIVATEUSEONE(stack, promote)
  KERNEL_PRIVATEUSEONE(cat, promote)
  KERNEL_PRIVATEUSEONE(index_copy, promote)
}

}  // namespace accel_simulator
