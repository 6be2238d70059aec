// Fused attention: chosen as torch chooses among the kernels the card has, computed by the host's
// fused kernel (or in plain operations, where that one does not take the inputs).
#include "kernels.h"

#include "fallback.h"

#include <ATen/Context.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/unflatten.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/SDPBackend.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

namespace accel_simulator {

namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;
using MaybeScale = std::optional<double>;
using Kernel = at::SDPBackend;

bool enabled(Kernel kind) {
  const auto& context = at::globalContext();
  switch (kind) {
    case Kernel::flash_attention:
      return context.userEnabledFlashSDP();
    case Kernel::efficient_attention:
      return context.userEnabledMemEfficientSDP();
    case Kernel::cudnn_attention:
      return context.userEnabledCuDNNSDP();
    case Kernel::math:
      return context.userEnabledMathSDP();
    default:
      return context.userEnabledOverrideableSDP();
  }
}

bool takes(
    const Backend& backend, Kernel kind, const Tensor& query, const Tensor& key,
    const MaybeTensor& mask, double dropout) {
  const auto& dtypes = backend.attention_dtypes;
  const bool float32 = query.scalar_type() == at::kFloat;
  if (std::find(dtypes.begin(), dtypes.end(), query.scalar_type()) == dtypes.end() ||
      dropout > 0.0 || query.dim() != 4 || query.size(-1) != key.size(-1) ||
      query.size(2) == 0 || key.size(2) == 0 || (mask && mask->requires_grad())) {
    return false;
  }
  if (kind == Kernel::flash_attention) {
    return !mask && !float32;
  }
  return kind != Kernel::cudnn_attention || !float32;
}

// Several heads of queries for one of keys, as grouped-query attention has them.
bool takes_groups(const Backend& backend, Kernel kind) {
  return kind == Kernel::overrideable ||
      (kind != Kernel::efficient_attention && backend.type == c10::DeviceType::CUDA);
}

int64_t choose(
    const Tensor& query, const Tensor& key, const Tensor& /*value*/, const MaybeTensor& mask,
    double dropout, bool /*causal*/, MaybeScale /*scale*/, bool gqa) {
  const Backend& backend = backend_of(query.device().type());
  const bool same_heads = query.dim() != 4 || query.size(1) == key.size(1);
  if (!backend.attention_error.empty() &&
      (enabled(Kernel::flash_attention) || enabled(Kernel::efficient_attention))) {
    TORCH_CHECK(false, backend.attention_error);
  }
  for (const int64_t number : backend.attention) {
    const auto kind = static_cast<Kernel>(number);
    if (enabled(kind) && (same_heads || (gqa && takes_groups(backend, kind))) &&
        takes(backend, kind, query, key, mask, dropout)) {
      return number;
    }
  }
  TORCH_CHECK(enabled(Kernel::math), "No available kernel. Aborting execution.");
  return static_cast<int64_t>(Kernel::math);
}

// One head of keys and values for each head of queries.
Tensor spread(const Tensor& tensor, int64_t heads) {
  const int64_t each = heads / tensor.size(1);
  return each == 1 ? tensor : tensor.repeat_interleave(each, 1);
}

Tensor gather(const Tensor& gradient, int64_t heads) {
  const int64_t each = gradient.size(1) / heads;
  return each == 1 ? gradient
                   : gradient.unflatten(1, {heads, each}).sum(2).to(gradient.scalar_type());
}

struct Attended {
  Tensor out;
  Tensor logsumexp;
};

Attended forward(
    const Tensor& query, const Tensor& key, const Tensor& value, const MaybeTensor& mask,
    double dropout, bool causal, MaybeScale scale) {
  const c10::Device device = query.device();
  operator_runs(backend_of(device.type()), device.index());
  TORCH_CHECK(
      dropout == 0.0, "the simulated fused attention has no dropout; torch's math attention has");
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  FitsOn fits(device);
  const int64_t heads = query.size(1);
  auto [out, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
      host_view(query), spread(host_view(key), heads), spread(host_view(value), heads), 0.0,
      causal, mask ? MaybeTensor(host_view(*mask)) : std::nullopt, scale);
  return {to_device(out, device), to_device(logsumexp, device)};
}

std::tuple<Tensor, Tensor, Tensor> backward(
    const Tensor& gradient, const Tensor& query, const Tensor& key, const Tensor& value,
    const Tensor& mask, const Tensor& out, const Tensor& logsumexp, bool causal,
    MaybeScale scale) {
  const c10::Device device = query.device();
  operator_runs(backend_of(device.type()), device.index());
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  FitsOn fits(device);
  const int64_t heads = query.size(1);
  auto [by_query, by_key, by_value] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      host_view(gradient), host_view(query), spread(host_view(key), heads),
      spread(host_view(value), heads), host_view(out), host_view(logsumexp), 0.0, causal,
      mask.defined() ? MaybeTensor(host_view(mask)) : std::nullopt, scale);
  return {
      to_device(by_query, device), to_device(gather(by_key, key.size(1)), device),
      to_device(gather(by_value, value.size(1)), device)};
}

Tensor nothing(const Tensor& like) {
  return at::empty({0}, like.options().dtype(at::kLong));
}

std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor>
flash(
    const Tensor& query, const Tensor& key, const Tensor& value, double dropout, bool causal,
    bool /*debug*/, MaybeScale scale) {
  auto [out, logsumexp] = forward(query, key, value, std::nullopt, dropout, causal, scale);
  return {
      out, logsumexp, Tensor(), Tensor(), query.sym_size(2), key.sym_size(2), nothing(query),
      nothing(query), nothing(query)};
}

std::tuple<Tensor, Tensor, Tensor> flash_backward(
    const Tensor& gradient, const Tensor& query, const Tensor& key, const Tensor& value,
    const Tensor& out, const Tensor& logsumexp, const Tensor&, const Tensor&, c10::SymInt,
    c10::SymInt, double, bool causal, const Tensor&, const Tensor&, MaybeScale scale) {
  return backward(gradient, query, key, value, Tensor(), out, logsumexp, causal, scale);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> efficient(
    const Tensor& query, const Tensor& key, const Tensor& value, const MaybeTensor& mask,
    bool /*logsumexp*/, double dropout, bool causal, MaybeScale scale) {
  auto [out, logsumexp] = forward(query, key, value, mask, dropout, causal, scale);
  return {out, logsumexp, nothing(query), nothing(query)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> efficient_backward(
    const Tensor& gradient, const Tensor& query, const Tensor& key, const Tensor& value,
    const Tensor& mask, const Tensor& out, const Tensor& logsumexp, const Tensor&, const Tensor&,
    double, std::array<bool, 4>, bool causal, MaybeScale scale) {
  auto [by_query, by_key, by_value] =
      backward(gradient, query, key, value, mask, out, logsumexp, causal, scale);
  return {by_query, by_key, by_value, Tensor()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor>
cudnn(
    const Tensor& query, const Tensor& key, const Tensor& value, const MaybeTensor& mask,
    bool /*logsumexp*/, double dropout, bool causal, bool /*debug*/, MaybeScale scale) {
  auto [out, logsumexp] = forward(query, key, value, mask, dropout, causal, scale);
  return {
      out, logsumexp, Tensor(), Tensor(), query.sym_size(2), key.sym_size(2), nothing(query),
      nothing(query), nothing(query)};
}

std::tuple<Tensor, Tensor, Tensor> cudnn_backward(
    const Tensor& gradient, const Tensor& query, const Tensor& key, const Tensor& value,
    const Tensor& out, const Tensor& logsumexp, const Tensor&, const Tensor&, const Tensor& mask,
    const Tensor&, const Tensor&, c10::SymInt, c10::SymInt, double, bool causal,
    MaybeScale scale) {
  return backward(gradient, query, key, value, mask, out, logsumexp, causal, scale);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor>
own(
    const Tensor& query, const Tensor& key, const Tensor& value, const MaybeTensor& mask,
    double dropout, bool causal, bool /*debug*/, MaybeScale scale) {
  return cudnn(query, key, value, mask, true, dropout, causal, false, scale);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> own_backward(
    const Tensor& gradient, const Tensor& query, const Tensor& key, const Tensor& value,
    const Tensor& mask, std::array<bool, 4>, const Tensor& out, const Tensor& logsumexp,
    const Tensor&, const Tensor&, c10::SymInt, c10::SymInt, double, bool causal, const Tensor&,
    const Tensor&, MaybeScale scale) {
  auto [by_query, by_key, by_value] =
      backward(gradient, query, key, value, mask, out, logsumexp, causal, scale);
  return {by_query, by_key, by_value, Tensor()};
}

// Attention in plain operations, whatever is asked for: for a type whose kernels torch cannot choose.
Tensor plain(
    const Tensor& query, const Tensor& key, const Tensor& value, const MaybeTensor& mask,
    double dropout, bool causal, MaybeScale scale, bool gqa) {
  MaybeTensor added = mask;
  if (mask && mask->scalar_type() == at::kBool) {
    added = at::zeros(mask->sizes(), query.options())
                .masked_fill_(mask->logical_not(), -std::numeric_limits<double>::infinity());
  }
  return std::get<0>(at::_scaled_dot_product_attention_math(
      query, key, value, added, dropout, causal, std::nullopt, scale, gqa));
}

}  // namespace

void register_plain_attention(torch::Library& library) {
  library.impl("scaled_dot_product_attention", &plain);
}

void register_attention(torch::Library& library, c10::DeviceType type) {
  library.impl("_fused_sdp_choice", &choose);
  auto& chooser = at::native::_fused_sdp_choice_stub;
  if (type == c10::DeviceType::CUDA) {
    chooser.set_cuda_dispatch_ptr(&choose);
  } else if (type == c10::DeviceType::PrivateUse1) {
    chooser.set_privateuse1_dispatch_ptr(&choose);
  }
  library.impl("_scaled_dot_product_flash_attention", &flash);
  library.impl("_scaled_dot_product_flash_attention_backward", &flash_backward);
  library.impl("_scaled_dot_product_efficient_attention", &efficient);
  library.impl("_scaled_dot_product_efficient_attention_backward", &efficient_backward);
  library.impl("_scaled_dot_product_cudnn_attention", &cudnn);
  library.impl("_scaled_dot_product_cudnn_attention_backward", &cudnn_backward);
  library.impl("_scaled_dot_product_fused_attention_overrideable", &own);
  library.impl("_scaled_dot_product_fused_attention_overrideable_backward", &own_backward);
}

}  // namespace accel_simulator
