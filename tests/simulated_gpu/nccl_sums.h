// Sums and maxima over ranks, in rank order: 16-bit numbers in fp32, rounded once.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace simnccl {

// NCCL's numbers of types and operations.
enum Type { INT8 = 0, UINT8, INT32, UINT32, INT64, UINT64, FLOAT16, FLOAT32, FLOAT64, BFLOAT16 };
enum Operation { SUM = 0, MAXIMUM = 2 };

// 0 for what is no type.
inline size_t size_of(int64_t type) {
  constexpr size_t SIZES[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
  return type >= INT8 && type <= BFLOAT16 ? SIZES[type] : 0;
}

inline float from_bf16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// `Stored` is what lies in memory, `Sum` what is added up.
template <typename Stored, typename Sum, typename Load, typename Store>
void reduce_as(const std::vector<const char*>& from, char* to, size_t n, int64_t operation, Load load, Store store) {
  auto at = [&](size_t rank, size_t i) -> Sum { return load(reinterpret_cast<const Stored*>(from[rank])[i]); };
  for (size_t i = 0; i < n; ++i) {
    Sum value = at(0, i);
    for (size_t rank = 1; rank < from.size(); ++rank) {
      const Sum next = at(rank, i);
      value = operation == MAXIMUM ? (next > value ? next : value) : value + next;
    }
    reinterpret_cast<Stored*>(to)[i] = store(value);
  }
}

template <typename T>
void reduce_plain(const std::vector<const char*>& from, char* to, size_t n, int64_t operation) {
  auto same = [](T value) { return value; };
  reduce_as<T, T>(from, to, n, operation, same, same);
}

inline void reduce(const std::vector<const char*>& from, char* to, size_t n, int64_t type, int64_t operation) {
  switch (type) {
    case INT64: return reduce_plain<int64_t>(from, to, n, operation);
    case FLOAT32: return reduce_plain<float>(from, to, n, operation);
    case FLOAT64: return reduce_plain<double>(from, to, n, operation);
    case BFLOAT16: return reduce_as<uint16_t, float>(from, to, n, operation, from_bf16, to_bf16);
    default: fprintf(stderr, "simnccl: type %ld can't be summed\n", static_cast<long>(type)), abort();
  }
}

}  // namespace simnccl
