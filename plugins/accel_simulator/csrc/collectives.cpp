#include "collectives.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>
#include <torch/csrc/utils/pybind.h>

#include "alias.h"
#include "device_work.h"
#include "routing.h"

#include <pybind11/chrono.h>
#include <pybind11/stl.h>

#include <set>

namespace accel_simulator {

namespace {

namespace py = pybind11;
using Tensors = std::vector<at::Tensor>;
using TensorLists = std::vector<Tensors>;
using c10d::Work;

// What a card's library refuses, and in which words; {dtype} and {op} are filled in.
struct Limits {
  std::set<at::ScalarType> refused;
  bool reductions_only = false;  // it carries any dtype that it need not reduce
  std::string dtype_message;
  std::set<std::string> missing;  // operations and reductions that it has not
  std::string missing_message;
};

std::string filled(std::string text, const std::string& word, const std::string& with) {
  const size_t at = text.find(word);
  return at == std::string::npos ? text : text.replace(at, word.size(), with);
}

std::string reduction_name(const c10d::ReduceOp& op) {
  static const char* names[] = {"SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR"};
  const auto number = static_cast<size_t>(static_cast<c10d::ReduceOp::RedOpType>(op));
  return number < 8 ? names[number] : "PREMUL_SUM";
}

Tensors flat(const TensorLists& lists) {
  Tensors all;
  for (const auto& list : lists) {
    all.insert(all.end(), list.begin(), list.end());
  }
  return all;
}

Tensors seen(const Tensors& tensors) {
  Tensors host;
  host.reserve(tensors.size());
  for (const auto& tensor : tensors) {
    host.push_back(is_simulated(tensor.device().type()) ? host_view(tensor) : tensor);
  }
  return host;
}

// A card's library takes memory; gloo asks for as many rows in the one as there are ranks.
Tensors flattened(Tensors tensors) {
  for (at::Tensor& tensor : tensors) {
    if (tensor.is_contiguous()) {
      tensor = tensor.view(-1);
    }
  }
  return tensors;
}

TensorLists seen(const TensorLists& lists) {
  TensorLists host;
  for (const auto& list : lists) {
    host.push_back(seen(list));
  }
  return host;
}

class DeviceCollectives final : public c10d::Backend {
 public:
  DeviceCollectives(
      std::string name, std::string kind, c10::intrusive_ptr<c10d::Backend> inner, Limits limits,
      std::chrono::milliseconds timeout)
      : c10d::Backend(inner->getRank(), inner->getSize()),
        name_(std::move(name)),
        type_(c10::Device(kind).type()),
        inner_(std::move(inner)),
        limits_(std::move(limits)),
        timeout_(timeout) {}

  const std::string getBackendName() const override {
    return name_;
  }
  void setTimeout(std::chrono::milliseconds timeout) override {
    timeout_ = timeout;
    inner_->setTimeout(timeout);
  }

  c10::intrusive_ptr<Work> broadcast(
      Tensors& tensors, const c10d::BroadcastOptions& options) override {
    check("broadcast", tensors);
    auto host = seen(tensors);
    return wrapped(inner_->broadcast(host, options), tensors);
  }

  c10::intrusive_ptr<Work> allreduce(
      Tensors& tensors, const c10d::AllreduceOptions& options) override {
    check("allreduce", tensors, &options.reduceOp);
    auto host = seen(tensors);
    c10d::AllreduceOptions given = options;
    auto after = averaged(given.reduceOp, tensors);
    return wrapped(inner_->allreduce(host, given), tensors, after);
  }

  c10::intrusive_ptr<Work> allreduce_coalesced(
      Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override {
    check("allreduce_coalesced", tensors, &options.reduceOp);
    auto host = seen(tensors);
    c10d::AllreduceCoalescedOptions given = options;
    auto after = averaged(given.reduceOp, tensors);
    return wrapped(inner_->allreduce_coalesced(host, given), tensors, after);
  }

  c10::intrusive_ptr<Work> reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    check("reduce", tensors, &options.reduceOp);
    auto host = seen(tensors);
    c10d::ReduceOptions given = options;
    auto after = averaged(given.reduceOp, tensors);
    return wrapped(inner_->reduce(host, given), tensors, after);
  }

  c10::intrusive_ptr<Work> allgather(
      TensorLists& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    check("allgather", inputs);
    auto host_outputs = seen(outputs);
    auto host_inputs = seen(inputs);
    return wrapped(inner_->allgather(host_outputs, host_inputs, options), flat(outputs));
  }

  c10::intrusive_ptr<Work> _allgather_base(
      at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override {
    check("allgather", {input});
    auto host = flattened(seen(Tensors{output, input}));
    return wrapped(inner_->_allgather_base(host[0], host[1], options), {output});
  }

  c10::intrusive_ptr<Work> allgather_into_tensor_coalesced(
      Tensors& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    check("allgather", inputs);
    auto host_outputs = seen(outputs);
    auto host_inputs = seen(inputs);
    return wrapped(
        inner_->allgather_into_tensor_coalesced(host_outputs, host_inputs, options), outputs);
  }

  c10::intrusive_ptr<Work> gather(
      TensorLists& outputs, Tensors& inputs, const c10d::GatherOptions& options) override {
    check("gather", inputs);
    auto host_outputs = seen(outputs);
    auto host_inputs = seen(inputs);
    return wrapped(inner_->gather(host_outputs, host_inputs, options), flat(outputs));
  }

  c10::intrusive_ptr<Work> scatter(
      Tensors& outputs, TensorLists& inputs, const c10d::ScatterOptions& options) override {
    check("scatter", outputs);
    auto host_outputs = seen(outputs);
    auto host_inputs = seen(inputs);
    return wrapped(inner_->scatter(host_outputs, host_inputs, options), outputs);
  }

  c10::intrusive_ptr<Work> reduce_scatter(
      Tensors& outputs, TensorLists& inputs, const c10d::ReduceScatterOptions& options) override {
    check("reduce_scatter", outputs, &options.reduceOp);
    auto host_outputs = seen(outputs);
    auto host_inputs = seen(inputs);
    c10d::ReduceScatterOptions given = options;
    auto after = averaged(given.reduceOp, outputs);
    return wrapped(inner_->reduce_scatter(host_outputs, host_inputs, given), outputs, after);
  }

  c10::intrusive_ptr<Work> _reduce_scatter_base(
      at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& options) override {
    check("reduce_scatter", {input}, &options.reduceOp);
    auto host = seen(Tensors{output, input});
    c10d::ReduceScatterOptions given = options;
    auto after = averaged(given.reduceOp, {output});
    return wrapped(inner_->_reduce_scatter_base(host[0], host[1], given), {output}, after);
  }

  c10::intrusive_ptr<Work> alltoall_base(
      at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_sizes,
      std::vector<int64_t>& input_sizes, const c10d::AllToAllOptions& options) override {
    check("alltoall", {input});
    auto host = seen(Tensors{output, input});
    return wrapped(
        inner_->alltoall_base(host[0], host[1], output_sizes, input_sizes, options), {output});
  }

  c10::intrusive_ptr<Work> alltoall(
      Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) override {
    check("alltoall", inputs);
    auto host_outputs = seen(outputs);
    auto host_inputs = seen(inputs);
    return wrapped(inner_->alltoall(host_outputs, host_inputs, options), outputs);
  }

  c10::intrusive_ptr<Work> send(Tensors& tensors, int to, int tag) override {
    check("send", tensors);
    auto host = seen(tensors);
    return wrapped(inner_->send(host, to, tag), tensors);
  }

  c10::intrusive_ptr<Work> recv(Tensors& tensors, int from, int tag) override {
    check("recv", tensors);
    auto host = seen(tensors);
    return wrapped(inner_->recv(host, from, tag), tensors);
  }

  c10::intrusive_ptr<Work> recvAnysource(Tensors& tensors, int tag) override {
    check("recv from any source", tensors);
    auto host = seen(tensors);
    return wrapped(inner_->recvAnysource(host, tag), tensors);
  }

  c10::intrusive_ptr<Work> barrier(const c10d::BarrierOptions& /*options*/) override {
    check("barrier", {});
    return wrapped(inner_->barrier(c10d::BarrierOptions()), {});
  }

  void setSequenceNumberForGroup() override {
    inner_->setSequenceNumberForGroup();
  }
  uint64_t getSequenceNumberForGroup() override {
    return inner_->getSequenceNumberForGroup();
  }

 private:
  c10::intrusive_ptr<Work> wrapped(
      c10::intrusive_ptr<Work> inner, Tensors results, std::function<void()> after = {}) {
    return c10::make_intrusive<DeviceWork>(std::move(inner), std::move(results), std::move(after));
  }

  void check(
      const std::string& what, const Tensors& tensors, const c10d::ReduceOp* reduction = nullptr) {
    time_out_on_demand(what);
    TORCH_CHECK(
        limits_.missing.count(what) == 0, filled(limits_.missing_message, "{op}", what));
    if (reduction != nullptr) {
      const std::string name = reduction_name(*reduction);
      TORCH_CHECK(
          limits_.missing.count(name) == 0, filled(limits_.missing_message, "{op}", name));
    }
    for (const auto& tensor : tensors) {
      TORCH_CHECK(
          tensor.device().type() == type_, "No backend type associated with device type ",
          c10::DeviceTypeName(tensor.device().type(), true), ": ", name_, " takes tensors of ",
          c10::DeviceTypeName(type_, true));
      operator_runs(backend_of(type_), tensor.device().index());
      if ((reduction != nullptr || !limits_.reductions_only) &&
          limits_.refused.count(tensor.scalar_type()) != 0) {
        TORCH_CHECK(
            false, filled(limits_.dtype_message, "{dtype}", c10::toString(tensor.scalar_type())));
      }
    }
  }

  // gloo has no average: a sum, divided when it is there.
  std::function<void()> averaged(c10d::ReduceOp& reduction, const Tensors& tensors) {
    if (static_cast<c10d::ReduceOp::RedOpType>(reduction) != c10d::ReduceOp::AVG) {
      return {};
    }
    reduction = c10d::ReduceOp(c10d::ReduceOp::SUM);
    return [tensors, size = getSize()] {
      for (auto& tensor : seen(tensors)) {
        if (tensor.is_floating_point()) {
          tensor.div_(size);
        } else {
          tensor.floor_divide_(size);
        }
      }
    };
  }

  void time_out_on_demand(const std::string& what) {
    auto& left = backend_of(type_).faults.collectives_until_timeout;
    if (left.load() < 0 || left.fetch_sub(1) != 0) {
      return;
    }
    std::string upper = name_;
    std::transform(upper.begin(), upper.end(), upper.begin(), ::toupper);
    C10_THROW_ERROR(
        DistBackendError,
        c10::str(
            "[Rank ", getRank(), "] Watchdog caught collective operation timeout: Work", upper,
            "(OpType=", what, ", Timeout(ms)=", timeout_.count(), ") ran for ", timeout_.count(),
            " milliseconds before timing out."));
  }

  std::string name_;
  c10::DeviceType type_;
  c10::intrusive_ptr<c10d::Backend> inner_;
  Limits limits_;
  std::chrono::milliseconds timeout_;
};

// What DistributedDataParallel times itself with: work is done when it is called, so the host's clock.
class HostTimer final : public c10d::Timer {
 public:
  explicit HostTimer(c10::Device /*device*/) {}

  std::optional<int64_t> measureDifference(Event start, Event end) override {
    const auto from = getTimestamp(start);
    const auto to = getTimestamp(end);
    if (!from || !to || *to < *from) {
      return std::nullopt;
    }
    return *to - *from;
  }
};

void register_timer(const std::string& kind) {
  const c10::DeviceType type = c10::Device(kind).type();
  if (!c10d::TimerRegistry()->Has(type)) {
    c10d::TimerRegistry()->Register(
        type, [](c10::Device device) -> std::unique_ptr<c10d::Timer> {
          return std::make_unique<HostTimer>(device);
        });
  }
}

}  // namespace

void add_collectives(py::module_& m) {
  m.def("register_timer", &register_timer);
  m.def("route_collectives", &route_collectives);
  m.def(
      "collectives",
      [](const std::string& name, const std::string& kind,
         const c10::intrusive_ptr<c10d::Backend>& inner, const py::dict& given,
         std::chrono::milliseconds timeout) {
        Limits limits;
        for (const auto& dtype : given["refused"]) {
          limits.refused.insert(py::cast<at::ScalarType>(dtype));
        }
        limits.reductions_only = py::cast<bool>(given["reductions_only"]);
        limits.dtype_message = py::cast<std::string>(given["dtype_message"]);
        limits.missing = py::cast<std::set<std::string>>(given["missing"]);
        limits.missing_message = py::cast<std::string>(given["missing_message"]);
        return c10::intrusive_ptr<c10d::Backend>(c10::make_intrusive<DeviceCollectives>(
            name, kind, inner, std::move(limits), timeout));
      });
}

}  // namespace accel_simulator
