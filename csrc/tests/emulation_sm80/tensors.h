// Tensors and the double-precision oracle for emulated_attention.cpp.
//
// B batch, L tokens, H heads, D channels.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../../joint_attention.h"
#include "primitives_on_host.h"

namespace sky4::emulated {

inline float to_float(DType dtype, uint16_t bits) {
    return dtype == DType::float16 ? cuda::sm80::element_to_float<cuda::sm80::Fp16>(bits)
                                   : cuda::sm80::element_to_float<cuda::sm80::Bf16>(bits);
}

inline uint16_t to_bits(DType dtype, float x) {
    return dtype == DType::float16 ? cuda::sm80::float_to_element<cuda::sm80::Fp16>(x)
                                   : cuda::sm80::float_to_element<cuda::sm80::Bf16>(x);
}

// [B, L, H, D], [B, H, L, D], rows with gaps between, rows 2^27 elements apart (memory that is only reserved)
enum class Order { tokens_first, heads_first, gaps, far };

// A [B, L, H, D] tensor of 16 bits amid NaN: a stray read shows in the results, a stray write in check_surroundings.
class Tensor {
public:
    static constexpr uint16_t kOutside = 0x7fee;  // NaN in both dtypes

    Tensor(DType dtype, int64_t b, int64_t l, int64_t h, int64_t d, Order order) : dtype_(dtype), shape_{b, l, h, d} {
        const int64_t gap = order == Order::gaps ? 24 : 0;
        const bool heads_first = order == Order::heads_first;
        stride_[3] = 1;
        stride_[heads_first ? 1 : 2] = d + gap;
        stride_[heads_first ? 2 : 1] = order == Order::far ? int64_t{1} << 27 : (d + gap) * (heads_first ? l : h) + gap;
        stride_[0] = stride_[heads_first ? 2 : 1] * (heads_first ? h : l) + gap;
        const int64_t elements = stride_[0] * b + 2 * kMargin;
        if (order == Order::far) {
            void* pages =
                mmap(nullptr, elements * 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (pages == MAP_FAILED) fail("no address space for far rows");
            data_ = static_cast<uint16_t*>(pages) + kMargin;
            return;
        }
        storage_.assign(elements + 8, kOutside);
        data_ = &storage_[kMargin];
        while (reinterpret_cast<uintptr_t>(data_) % 16 != 0) ++data_;
    }
    Tensor(const Tensor&) = delete;
    Tensor(Tensor&& other) noexcept = default;  // the storage does not move

    uint16_t& at(int64_t b, int64_t l, int64_t h, int64_t d) {
        return data_[b * stride_[0] + l * stride_[1] + h * stride_[2] + d];
    }

    float value(int64_t b, int64_t l, int64_t h, int64_t d) { return to_float(dtype_, at(b, l, h, d)); }

    void randomize(std::mt19937& random, float size) {
        std::normal_distribution<float> normal(0.0f, size);
        each([&](uint16_t& bits) { bits = to_bits(dtype_, normal(random)); });
    }

    TensorRef ref() {
        TensorRef x;
        x.data = data_;
        x.dtype = dtype_;
        x.device = Device::cuda;
        x.ndim = 4;
        for (int i = 0; i < 4; ++i) x.shape[i] = shape_[i], x.stride[i] = stride_[i];
        return x;
    }

    // All of what lies around the tensor is as it was, none of what lies in it.
    bool surroundings_untouched() {
        const std::vector<uint16_t> copy = storage_;
        bool all_written = true;
        each([&](uint16_t& bits) {
            all_written = all_written && bits != kOutside;
            bits = kOutside;
        });
        bool untouched = true;
        for (uint16_t bits : storage_) untouched = untouched && bits == kOutside;
        std::copy(copy.begin(), copy.end(), storage_.begin());
        return all_written && untouched;
    }

    int64_t tokens() const { return shape_[1]; }

private:
    static constexpr int64_t kMargin = 256;

    void each(const std::function<void(uint16_t&)>& visit) {
        for (int64_t b = 0; b < shape_[0]; ++b)
            for (int64_t l = 0; l < shape_[1]; ++l)
                for (int64_t h = 0; h < shape_[2]; ++h)
                    for (int64_t d = 0; d < shape_[3]; ++d) visit(at(b, l, h, d));
    }

    DType dtype_;
    int64_t shape_[4], stride_[4];
    uint16_t* data_;
    std::vector<uint16_t> storage_;
};

using Matrix = std::vector<std::vector<double>>;

inline Matrix zeros(size_t rows, size_t columns) { return Matrix(rows, std::vector<double>(columns, 0.0)); }

inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}

// One head: attention of all queries to the keys that `sees(query, key)`, and its gradients.
struct Oracle {
    Matrix out, grad_q, grad_k, grad_v;
    std::vector<double> lse;

    Oracle(const Matrix& q, const Matrix& k, const Matrix& v, const Matrix& grad_out, double scale,
           const std::function<bool(int, int)>& sees)
        : lse(q.size(), -std::numeric_limits<double>::infinity()) {
        const size_t dim = grad_out.empty() ? 0 : grad_out[0].size();
        out = grad_q = zeros(q.size(), dim);
        grad_k = grad_v = zeros(k.size(), dim);
        for (size_t i = 0; i < q.size(); ++i) {
            std::vector<double> weights(k.size(), 0.0);
            double sum = 0, high = -std::numeric_limits<double>::infinity();
            for (size_t j = 0; j < k.size(); ++j)
                if (sees(i, j)) high = std::max(high, weights[j] = scale * dot(q[i], k[j]));
            for (size_t j = 0; j < k.size(); ++j) sum += weights[j] = sees(i, j) ? std::exp(weights[j] - high) : 0.0;
            if (sum == 0) continue;
            lse[i] = high + std::log(sum);
            for (size_t j = 0; j < k.size(); ++j) {
                weights[j] /= sum;
                for (size_t d = 0; d < dim; ++d) out[i][d] += weights[j] * v[j][d];
            }
            const double delta = dot(out[i], grad_out[i]);
            for (size_t j = 0; j < k.size(); ++j) {
                if (weights[j] == 0) continue;
                const double grad_score = weights[j] * (dot(grad_out[i], v[j]) - delta) * scale;
                for (size_t d = 0; d < dim; ++d) {
                    grad_v[j][d] += weights[j] * grad_out[i][d];
                    grad_k[j][d] += grad_score * q[i][d];
                    grad_q[i][d] += grad_score * k[j][d];
                }
            }
        }
    }
};

// Relative distance of two tensors in the 2-norm, and the greatest single difference over the greatest value.
class Distance {
public:
    void add(double got, double wanted) {
        if (!(std::fabs(got) < 1e30)) bad_ = true;
        squares_ += (got - wanted) * (got - wanted);
        size_ += wanted * wanted;
        greatest_ = std::max(greatest_, std::fabs(got - wanted));
        greatest_size_ = std::max(greatest_size_, std::fabs(wanted));
    }

    double norm() const { return bad_ ? INFINITY : size_ > 0 ? std::sqrt(squares_ / size_) : std::sqrt(squares_); }
    double greatest() const { return bad_ ? INFINITY : greatest_size_ > 0 ? greatest_ / greatest_size_ : greatest_; }

private:
    double squares_ = 0, size_ = 0, greatest_ = 0, greatest_size_ = 0;
    bool bad_ = false;
};

// A sequence in segments: what a kernel gets, and its concatenation as the oracle sees it.
struct Segments {
    std::vector<Tensor> part;

    Segments(DType dtype, int64_t batch, const std::vector<int>& lengths, int64_t heads, int64_t dim, int order) {
        for (int length : lengths)
            part.emplace_back(dtype, batch, length, heads, dim,
                              order < 0 ? Order::far : static_cast<Order>(order++ % 3));
    }
    void randomize(std::mt19937& random, float size) {
        for (Tensor& x : part) x.randomize(random, size);
    }
    AttentionSegments refs() {
        AttentionSegments segments;
        segments.count = static_cast<int>(part.size());
        for (size_t i = 0; i < part.size(); ++i) segments.part[i] = part[i].ref();
        return segments;
    }
    Matrix rows(int64_t b, int64_t h, int64_t dim) {
        Matrix rows;
        for (Tensor& x : part)
            for (int64_t l = 0; l < x.tokens(); ++l) {
                rows.emplace_back(dim);
                for (int64_t d = 0; d < dim; ++d) rows.back()[d] = x.value(b, l, h, d);
            }
        return rows;
    }
    void compare(Distance& distance, int64_t b, int64_t h, const Matrix& wanted) {
        const Matrix got = rows(b, h, wanted.empty() ? 0 : wanted[0].size());
        for (size_t i = 0; i < wanted.size(); ++i)
            for (size_t d = 0; d < wanted[i].size(); ++d) distance.add(got[i][d], wanted[i][d]);
    }
    bool surroundings_untouched() {
        bool untouched = true;
        for (Tensor& x : part) untouched = x.surroundings_untouched() && untouched;
        return untouched;
    }
};

inline int total(const std::vector<int>& lengths) {
    int sum = 0;
    for (int length : lengths) sum += length;
    return sum;
}

inline TensorRef ints(std::vector<int>& values) {
    TensorRef x;
    x.data = values.data();
    x.dtype = DType::int32;
    x.device = Device::cuda;
    x.ndim = 1;
    x.shape[0] = static_cast<int64_t>(values.size());
    x.stride[0] = 1;
    return x;
}

}  // namespace sky4::emulated
