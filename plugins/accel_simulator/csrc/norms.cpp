#include "kernels.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

namespace accel_simulator {

namespace {

using Optional = std::optional<at::Tensor>;

bool given(const Optional& tensor) {
  return tensor.has_value() && tensor->defined();
}

// Statistics are kept in float32 at least, as on the cards.
at::Tensor full(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? tensor : tensor.to(at::kFloat);
}

std::vector<int64_t> but_channels(const at::Tensor& tensor) {
  std::vector<int64_t> dims;
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    if (dim != 1) {
      dims.push_back(dim);
    }
  }
  return dims;
}

at::Tensor along_channels(const at::Tensor& values, const at::Tensor& like) {
  std::vector<int64_t> shape(like.dim(), 1);
  shape[1] = -1;
  return full(values).view(shape);
}

std::tuple<at::Tensor, at::Tensor> stats(const at::Tensor& input, double eps) {
  const at::Tensor values = full(input);
  const auto dims = but_channels(input);
  const at::Tensor mean = values.mean(dims);
  const at::Tensor apart = values - along_channels(mean, input);
  return {mean, ((apart * apart).mean(dims) + eps).rsqrt()};
}

std::tuple<at::Tensor, at::Tensor> gather_stats(
    const at::Tensor& /*input*/, const at::Tensor& mean, const at::Tensor& invstd,
    const Optional& running_mean, const Optional& running_var, double momentum, double eps,
    const at::Tensor& counts) {
  const at::Tensor weight = counts.to(mean.scalar_type()).view({-1, 1});
  const at::Tensor total = weight.sum();
  const at::Tensor all = (weight * mean).sum(0) / total;
  const at::Tensor apart = mean - all;
  const at::Tensor each = invstd.pow(-2) - eps + apart * apart;
  const at::Tensor variance = (weight * each).sum(0) / total;
  if (given(running_mean)) {
    running_mean->mul_(1 - momentum).add_(all.to(running_mean->scalar_type()), momentum);
  }
  if (given(running_var)) {
    const at::Tensor unbiased = variance * (total / (total - 1).clamp_min(1));
    running_var->mul_(1 - momentum).add_(unbiased.to(running_var->scalar_type()), momentum);
  }
  return {all, (variance + eps).rsqrt()};
}

at::Tensor normalised(
    const at::Tensor& input, const Optional& weight, const Optional& bias, const at::Tensor& mean,
    const at::Tensor& invstd, double /*eps*/) {
  at::Tensor out = (full(input) - along_channels(mean, input)) * along_channels(invstd, input);
  if (given(weight)) {
    out = out * along_channels(*weight, input);
  }
  if (given(bias)) {
    out = out + along_channels(*bias, input);
  }
  return out.to(input.scalar_type());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> backward_sums(
    const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& mean,
    const at::Tensor& invstd, const Optional& weight, bool /*input_g*/, bool weight_g,
    bool bias_g) {
  const auto dims = but_channels(input);
  const at::Tensor sum = full(gradient).sum(dims);
  const at::Tensor with_input =
      (full(gradient) * (full(input) - along_channels(mean, input))).sum(dims);
  const auto type = given(weight) ? weight->scalar_type() : sum.scalar_type();
  return {
      sum, with_input, weight_g ? (with_input * invstd).to(type) : at::Tensor(),
      bias_g ? sum.to(type) : at::Tensor()};
}

at::Tensor backward_input(
    const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& mean,
    const at::Tensor& invstd, const Optional& weight, const at::Tensor& sum,
    const at::Tensor& with_input, const at::Tensor& count) {
  const at::Tensor total = count.sum().to(sum.scalar_type());
  const at::Tensor slope = with_input / total * invstd * invstd;
  const at::Tensor apart = full(input) - along_channels(mean, input);
  at::Tensor out = (full(gradient) - along_channels(sum / total, input) -
                    apart * along_channels(slope, input)) *
      along_channels(invstd, input);
  if (given(weight)) {
    out = out * along_channels(*weight, input);
  }
  return out.to(input.scalar_type());
}

}  // namespace

void register_sync_norms(torch::Library& library) {
  library.impl("batch_norm_stats", &stats);
  library.impl("batch_norm_gather_stats_with_counts", &gather_stats);
  library.impl("batch_norm_elemt", &normalised);
  library.impl("batch_norm_backward_reduce", &backward_sums);
  library.impl("batch_norm_backward_elemt", &backward_input);
}

}  // namespace accel_simulator
