// x in shared memory: chunks of 64 input features, brought by cp.async and read as fragments of mma.sync.

struct Activations {
  const u16* base;
  int rows, K;
};

constexpr int X_BYTES = ROWS * 1024;  // of a chunk

// Where in a chunk's x 8 values from run `run` on stand: columns are exchanged by row, against bank conflicts.
INLINE int place_of_x(int row, int run) { return row * 128 + ((run ^ (row & 7)) << 4); }

// A chunk's x. Rows that are not there are left alone or, with FILL, zero; beyond K all are zero.
template <bool FILL>
INLINE void bring_x(char* to, const Activations& x, int c, int lane) {
#pragma unroll
  for (int i = 0; i < ROWS * 2; ++i) {
    const int row = i * 4 + (lane >> 3), run = lane & 7, k = c * CHUNK + 8 * run;
    const bool there = row < x.rows && k < x.K;
    if (FILL || row < x.rows)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                       u32(__cvta_generic_to_shared(to + place_of_x(row, run)))),
                   "l"(x.base + (there ? u64(row) * x.K + k : 0)), "r"(there ? 16 : 0) : "memory");
  }
}

// The fragments of B for every run of 8 input features of a chunk whose x stands at `part`.
INLINE void read_fragments(const char* part, int lane, u32 (&x)[ROWS][8]) {
#pragma unroll
  for (int i = 0; i < ROWS; ++i)
#pragma unroll
    for (int run = 0; run < 8; run += 4) {
      const u32 at = u32(__cvta_generic_to_shared(part + place_of_x(i * 8 + (lane & 7), run + (lane >> 3))));
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(x[i][run]), "=r"(x[i][run + 1]), "=r"(x[i][run + 2]), "=r"(x[i][run + 3])
                   : "r"(at) : "memory");
    }
}
