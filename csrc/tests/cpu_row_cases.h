// qk_norm_rope with its backward, select_cubes and latent_assemble against loops in float64.
#pragma once

#include <algorithm>

#include "../latent_assemble.h"
#include "../qk_norm_rope.h"
#include "../select_cubes.h"
#include "cpu_cases.h"

namespace sky4::cases {

enum class Norm { none, head, all };

inline void qk_norm_rope_case(Verdict& verdict, DType dtype, Norm norm, bool cubes, int64_t B, int64_t N, int64_t H,
                              int64_t d) {
    Source source(static_cast<uint64_t>(N * 100 + d));
    const bool turned = d % 2 == 0;
    Held x = source.tensor(dtype, {B, N, H, d}), bias = source.tensor(dtype, {H, d});
    Held weight = norm == Norm::all ? source.tensor(DType::float32, {H, d}) : source.tensor(DType::float32, {d});
    Held turn = numbers(DType::float32, {1, N, d / 2, 2}, [&](int64_t i) {
        const double angle = static_cast<double>(i / 2) * 0.7 - 3;
        return i % 2 == 0 ? std::cos(angle) : std::sin(angle);
    });
    Held order = numbers(DType::int64, {N}, [&](int64_t i) { return static_cast<double>(N - 1 - i); });
    const int64_t M = (N + 3) / 4;
    Held starts = numbers(DType::int32, {M + 1}, [&](int64_t i) { return static_cast<double>(std::min(4 * i, N)); });
    Held longer(dtype, {B, N + 5, H, d}), pooled(dtype, {B, M, H, d});
    const TensorRef out = longer.cut(1, 2, N);

    QKNormRope args;
    args.x = x, args.out = out, args.bias = bias, args.order = order;
    if (norm != Norm::none) args.weight = weight;
    if (turned) args.turn = turn;
    if (cubes) args.starts = starts, args.pooled = pooled;
    qk_norm_rope(args);

    Held grad_out = source.tensor(dtype, {B, N, H, d}), grad_pooled = source.tensor(dtype, {B, M, H, d});
    Held grad_x(dtype, {B, N, H, d});
    Held grad_weight = norm == Norm::all ? Held(DType::float32, {H, d}) : Held(DType::float32, {d});
    QKNormRopeBackward back;
    back.x = x, back.bias = bias, back.order = order, back.grad_out = grad_out, back.grad_x = grad_x;
    back.weight = args.weight, back.turn = args.turn;
    if (cubes) back.starts = starts, back.grad_pooled = grad_pooled;
    if (args.weight) back.grad_weight = grad_weight;
    qk_norm_rope_backward(back);

    const int64_t row_size = H * d, group = norm == Norm::all ? row_size : d;
    std::vector<double> weight_sums(static_cast<size_t>(group));
    for (int64_t b = 0; b < B; ++b) {
        for (int64_t row = 0; row < N; ++row) {
            const int64_t token = N - 1 - row;
            std::vector<double> n(row_size), g(row_size), scale(row_size, 1.0), w(row_size, 1.0);
            const auto cosine = [&](int64_t j) { return turned ? get(turn, {0, token, j / 2, 0}) : 1.0; };
            const auto sine = [&](int64_t j) { return turned ? get(turn, {0, token, j / 2, 1}) : 0.0; };
            for (int64_t i = 0; i < row_size; ++i) n[i] = get(x, {b, token, i / d, i % d}) + get(bias, {i / d, i % d});
            for (int64_t first = 0; norm != Norm::none && first < row_size; first += group) {
                double squares = 0;
                for (int64_t i = first; i < first + group; ++i) squares += n[i] * n[i];
                for (int64_t i = first; i < first + group; ++i) {
                    scale[i] = 1 / std::sqrt(squares / static_cast<double>(group) + static_cast<double>(args.eps));
                    w[i] = get(weight.ref(), norm == Norm::all ? Index{i / d, i % d} : Index{i % d});
                    n[i] *= scale[i];
                }
            }
            const auto incoming = [&](int64_t i) {
                const double direct = get(grad_out, {b, row, i / d, i % d});
                const auto count = static_cast<double>(std::min<int64_t>(4, N - row / 4 * 4));
                return cubes ? direct + get(grad_pooled, {b, row / 4, i / d, i % d}) / count : direct;
            };
            for (int64_t i = 0; i < row_size; ++i) {
                const int64_t j = i % d, other = turned ? i + (j % 2 == 0 ? 1 : -1) : i;
                const double sign = j % 2 == 0 ? -1 : 1;
                const double wanted = n[i] * w[i] * cosine(j) + sign * n[other] * w[other] * sine(j);
                verdict.expect("qk_norm_rope", get(out, {b, row, i / d, j}), wanted, tolerance(dtype, wanted, 3));
                g[i] = incoming(i) * cosine(j) - sign * incoming(other) * sine(j);
                if (norm != Norm::none) weight_sums[static_cast<size_t>(i % group)] += g[i] * n[i];
            }
            for (int64_t first = 0; first < row_size; first += group) {
                double mean = 0;
                for (int64_t i = first; norm != Norm::none && i < first + group; ++i)
                    mean += g[i] * w[i] * n[i] / static_cast<double>(group);
                for (int64_t i = first; i < first + group; ++i) {
                    const double wanted = (g[i] * w[i] - n[i] * mean) * scale[i];
                    verdict.expect("qk_norm_rope_backward: grad_x", get(grad_x, {b, token, i / d, i % d}), wanted,
                                   tolerance(dtype, wanted, 5));
                }
            }
        }
        for (int64_t i = 0; cubes && i < M * row_size; ++i) {
            const int64_t cube = i / row_size, h = i % row_size / d, j = i % d, last = std::min(4 * cube + 4, N);
            double sum = 0;
            for (int64_t row = 4 * cube; row < last; ++row) sum += get(out, {b, row, h, j});
            const double wanted = sum / static_cast<double>(last - 4 * cube);
            verdict.expect("qk_norm_rope: pooled", get(pooled, {b, cube, h, j}), wanted, tolerance(dtype, wanted));
        }
    }
    for (int64_t i = 0; norm != Norm::none && i < group; ++i)
        verdict.expect("qk_norm_rope_backward: grad_weight",
                       get(grad_weight.ref(), norm == Norm::all ? Index{i / d, i % d} : Index{i}),
                       weight_sums[static_cast<size_t>(i)], 1e-4 * static_cast<double>(B * N));
    for (int64_t i = 0; i < B * 5 * row_size; ++i) {  // rows beside the slice stay as they were
        const int64_t b = i / (5 * row_size), row = i / row_size % 5;
        verdict.expect("qk_norm_rope: beside out", get(longer, {b, row < 2 ? row : N + row, i % row_size / d, i % d}),
                       std::numeric_limits<double>::quiet_NaN(), 0);
    }
}

inline void select_cubes_case(Verdict& verdict, DType dtype, int64_t B, int64_t M_q, int64_t M_k, int64_t H, int64_t d,
                              int64_t keep) {
    Source source(static_cast<uint64_t>(M_k + keep));
    const auto whole = [&](int64_t) { return source.whole(); };
    Held queries = numbers(dtype, {B, M_q, H, d}, whole), keys = numbers(dtype, {B, M_k, H, d}, whole);
    Held selected(DType::int32, {B, H, M_q, (M_k + 31) / 32});
    select_cubes({queries, keys, keep, selected});
    for (int64_t i = 0; i < B * H * M_q; ++i) {
        const int64_t b = i / (H * M_q), h = i / M_q % H, row = i % M_q;
        std::vector<double> score(static_cast<size_t>(M_k));
        std::vector<int64_t> ranked(static_cast<size_t>(M_k));
        for (int64_t k = 0; k < M_k; ++k) {
            ranked[static_cast<size_t>(k)] = k;
            for (int64_t j = 0; j < d; ++j)
                score[static_cast<size_t>(k)] += get(queries, {b, row, h, j}) * get(keys, {b, k, h, j});
        }
        std::stable_sort(ranked.begin(), ranked.end(), [&](int64_t left, int64_t right) {
            return score[static_cast<size_t>(left)] > score[static_cast<size_t>(right)];
        });
        std::vector<uint32_t> words(static_cast<size_t>((M_k + 31) / 32));
        for (int64_t k = 0; k < keep; ++k) {
            const auto chosen = static_cast<size_t>(ranked[static_cast<size_t>(k)]);
            words[chosen / 32] |= 1u << (chosen % 32);
        }
        for (size_t w = 0; w < words.size(); ++w)
            verdict.expect("select_cubes", get(selected, {b, h, row, static_cast<int64_t>(w)}),
                           static_cast<int32_t>(words[w]), 0);
    }
}

// Where cell i of `target` lies among `size`: corners aligned, or cell edges.
inline double place(int64_t i, int64_t size, int64_t target, bool corners) {
    if (corners) return target > 1 ? static_cast<double>(i * (size - 1)) / static_cast<double>(target - 1) : 0;
    return std::max((static_cast<double>(i) + 0.5) * static_cast<double>(size) / static_cast<double>(target) - 0.5,
                    0.0);
}

inline void latent_assemble_case(Verdict& verdict, DType dtype, bool byte_mask, std::array<int64_t, 3> size,
                                 std::array<int64_t, 3> target) {
    constexpr int64_t B = 2, C = 3;
    Source random(static_cast<uint64_t>(target[2]));
    Held low = random.tensor(dtype, {B, C, size[0], size[1], size[2]});
    Held noise = random.tensor(dtype, {B, C, target[0], target[1], target[2]});
    Held source = random.tensor(dtype, {B, C, target[0], target[1], target[2]});
    Held keyframes = random.tensor(dtype, {B, C, 1, target[1], target[2]});
    Held index = numbers(DType::int64, {1}, [&](int64_t) { return static_cast<double>(target[0] - 1); });
    Held mask = numbers(byte_mask ? DType::boolean : dtype, {B, 1, target[0], target[1], target[2]},
                        [&](int64_t) { return random.uniform() > 1 ? 1.0 : 0.0; });
    Held out(dtype, {B, 2 * C, target[0], target[1], target[2]});
    latent_assemble({low, noise, keyframes.ref(), index.ref(), source.ref(), mask.ref(), out});

    for (int64_t i = 0; i < out.ref().elements(); ++i) {
        int64_t rest = i;
        std::array<int64_t, 3> at;
        for (int axis = 2; axis >= 0; --axis) at[axis] = rest % target[axis], rest /= target[axis];
        const int64_t channel = rest % (2 * C), b = rest / (2 * C), c = channel % C;
        double wanted = 0, slack = 0;
        if (channel < C) {
            wanted = get(noise, {b, c, at[0], at[1], at[2]});
        } else if (get(mask, {b, 0, at[0], at[1], at[2]}) == 1) {
            wanted = get(source, {b, c, at[0], at[1], at[2]});
        } else if (at[0] == target[0] - 1) {
            wanted = get(keyframes, {b, c, 0, at[1], at[2]});
        } else {
            for (int corner = 0; corner < 8; ++corner) {
                std::array<int64_t, 3> from;
                double weight = 1;
                for (int axis = 0; axis < 3; ++axis) {
                    const double position = place(at[axis], size[axis], target[axis], axis == 0);
                    const auto below = std::min(static_cast<int64_t>(position), size[axis] - 1);
                    const bool upper = (corner >> axis & 1) != 0;
                    from[axis] = std::min(below + (upper ? 1 : 0), size[axis] - 1);
                    const double share = position - std::floor(position);
                    weight *= upper ? share : 1 - share;
                }
                wanted += weight * get(low, {b, c, from[0], from[1], from[2]});
            }
            slack = tolerance(dtype, wanted);
        }
        verdict.expect("latent_assemble", get(out, {b, channel, at[0], at[1], at[2]}), wanted, slack);
    }
}

}  // namespace sky4::cases
