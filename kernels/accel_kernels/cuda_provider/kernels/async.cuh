// Hopper's copies into shared memory, its barriers, and its asynchronous matrix product.

struct __align__(64) TensorMap { u64 opaque[16]; };  // CUtensorMap of the driver

INLINE u32 shared_address(const void* at) { return u32(__cvta_generic_to_shared(at)); }

INLINE void barrier_init(u32 barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Waits and arrivals order nothing beyond this block, on purpose: what the copy engine brings is visible
// to who sees its barrier complete, and what is read from shared memory was used before the arrival. A
// wider scope would empty the L1 cache and wait for all writes at every turn of the ring.
INLINE void barrier_wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n .reg .pred done;\n WAIT:\n"
      " mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      " @done bra DONE;\n bra WAIT;\n DONE:\n}" ::"r"(barrier), "r"(parity) : "memory");
}

INLINE void barrier_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Where block `rank` of the cluster has what stands at `own` here.
INLINE u32 address_in(u32 own, int rank) {
  u32 there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(own), "r"(rank));
  return there;
}

INLINE void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

INLINE u32 read_word(u32 at) {
  u32 v;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
  return v;
}

INLINE uint2 read_two(u32 at) {
  uint2 v;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at) : "memory");
  return v;
}

INLINE uint4 read_four(u32 at) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
  return v;
}

INLINE void copy_bytes(u32 to, const void* from, u32 bytes, u32 barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

INLINE void prefetch_bytes(const void* from, u32 bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

INLINE void prefetch_map(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

INLINE void copy_box(u32 to, const TensorMap* map, int x, int y, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(barrier) : "memory");
}

// To the same address in every block of `blocks`, whose barriers count the bytes.
INLINE void copy_box_to(u32 to, const TensorMap* map, int x, int y, u32 barrier, u16 blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(blocks) : "memory");
}

INLINE void store_box(const TensorMap* map, u32 from, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
               "r"(x), "r"(y), "r"(from) : "memory");
}

INLINE void stores_were_read() {
  asm volatile("cp.async.bulk.commit_group;\n cp.async.bulk.wait_group.read 0;" ::: "memory");
}

INLINE void shared_is_written() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

INLINE void meet(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

INLINE void store_transposed(u32 to, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a),
               "r"(b), "r"(c), "r"(d) : "memory");
}

// Rows of 128 bytes, 16-byte columns exchanged by row as TMA's and wgmma's 128-byte swizzle does it;
// 1024 bytes from one group of 8 rows to the next.
INLINE u64 operand_at(u32 address) {
  return u64(address >> 4 & 0x3fff) | u64(1) << 16 | u64(64) << 32 | u64(1) << 62;
}

INLINE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INLINE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT>
INLINE void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }

#define F8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define N8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define N16 N8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define N32 N16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define N64 N32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
                "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define N128 N64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "   \
                 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, "   \
                 "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, "     \
                 "%123, %124, %125, %126, %127"

// d += a b, or d = a b where `fresh`: a [64, 16] in registers, b [16, M_TILE] in shared memory.
#define WGMMA(N, SUMS, A, B, FRESH, ...)                                                                    \
  asm volatile("{\n .reg .pred more;\n setp.eq.b32 more, " FRESH ", 0;\n"                                    \
               " wgmma.mma_async.sync.aligned.m64n" N "k16.f32." ELEMENT "." ELEMENT " {" SUMS "}, {" A "}, " \
               B ", more, 1, 1, 0;\n}"                                                                      \
               : __VA_ARGS__                                                                                \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(fresh)) : "memory")

INLINE void multiply_into(float (&d)[M_TILE / 2], const u32 (&a)[4], u64 b, bool fresh) {
#if M_TILE == 16
  WGMMA("16", N8, "%8, %9, %10, %11", "%12", "%13", F8(0));
#elif M_TILE == 32
  WGMMA("32", N16, "%16, %17, %18, %19", "%20", "%21", F8(0), F8(8));
#elif M_TILE == 64
  WGMMA("64", N32, "%32, %33, %34, %35", "%36", "%37", F8(0), F8(8), F8(16), F8(24));
#elif M_TILE == 128
  WGMMA("128", N64, "%64, %65, %66, %67", "%68", "%69", F8(0), F8(8), F8(16), F8(24), F8(32), F8(40),
        F8(48), F8(56));
#else
  WGMMA("256", N128, "%128, %129, %130, %131", "%132", "%133", F8(0), F8(8), F8(16), F8(24), F8(32), F8(40),
        F8(48), F8(56), F8(64), F8(72), F8(80), F8(88), F8(96), F8(104), F8(112), F8(120));
#endif
}
