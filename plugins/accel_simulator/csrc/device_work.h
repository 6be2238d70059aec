// gloo's work, as the work of a simulated device.
#pragma once

#include <torch/csrc/distributed/c10d/Work.hpp>

#include <functional>
#include <mutex>
#include <vector>

namespace accel_simulator {

// gloo's work on views of the host; results are those of the caller's tensors.
class DeviceWork final : public c10d::Work {
 public:
  DeviceWork(c10::intrusive_ptr<c10d::Work> inner, std::vector<at::Tensor> results, std::function<void()> after)
      : c10d::Work(-1, inner->retrieveOpType()),
        inner_(std::move(inner)),
        results_(std::move(results)),
        after_(std::move(after)) {}

  bool isCompleted() override {
    return inner_->isCompleted();
  }
  bool isSuccess() const override {
    return inner_->isSuccess();
  }
  std::exception_ptr exception() const override {
    return inner_->exception();
  }
  int sourceRank() const override {
    return inner_->sourceRank();
  }
  std::vector<at::Tensor> result() override {
    return results_;
  }
  bool wait(std::chrono::milliseconds timeout) override {
    const bool done = inner_->wait(timeout);
    finish_once();
    return done;
  }
  void synchronize() override {
    wait(kNoTimeout);
  }
  void abort() override {
    inner_->abort();
  }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    std::vector<c10::Device> devices;
    if (!results_.empty() && !results_[0].device().is_cpu()) {
      devices.push_back(results_[0].device());
    }
    auto future = c10::make_intrusive<c10::ivalue::Future>(
        c10::ListType::create(c10::TensorType::get()), devices);
    auto self = c10::intrusive_ptr<DeviceWork>::reclaim_copy(this);
    inner_->getFuture()->addCallback([self, future](c10::ivalue::Future& done) {
      if (done.hasError()) {
        future->setError(done.exception_ptr());
        return;
      }
      self->finish_once();
      future->markCompleted(c10::IValue(self->results_));
    });
    return future;
  }

 private:
  void finish_once() {
    std::function<void()> after;
    {
      std::lock_guard<std::mutex> guard(mutex_);
      std::swap(after, after_);
    }
    if (after) {
      after();
    }
  }

  c10::intrusive_ptr<c10d::Work> inner_;
  std::vector<at::Tensor> results_;
  std::function<void()> after_;
};

}  // namespace accel_simulator
