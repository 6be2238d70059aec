// What becomes of a warp's sums.

constexpr int OUTPUTS = COLUMNS * 16;
constexpr int FRAGMENTS = COLUMNS * ROWS * 128;  // fp32 sums of one warp

INLINE void store(void* y, u64 at, float value) {
#if FLOAT_OUT
  static_cast<float*>(y)[at] = value;
#else
  static_cast<u16*>(y)[at] = BF16 ? float_to_bfloat(value) : float_to_half(value);
#endif
}

#if CLUSTER
INLINE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
INLINE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
INLINE void cluster_barrier() {
  cluster_arrive();
  cluster_wait();
}

INLINE float read_neighbour(const float* own, int rank) {
  u32 address = u32(__cvta_generic_to_shared(own)), there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  float value;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(there));
  return value;
}
#endif
