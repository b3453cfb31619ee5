// What each kernel's binding adds to the module; one file per kernel, its docstring with the shapes beside it.
#pragma once

#include <pybind11/pybind11.h>

namespace sky4 {

void bind_block_sparse_attention(pybind11::module_& module);
void bind_isa(pybind11::module_& module);
void bind_joint_attention(pybind11::module_& module);
void bind_latent_assemble(pybind11::module_& module);
void bind_qk_norm_rope(pybind11::module_& module);
void bind_select_cubes(pybind11::module_& module);

}  // namespace sky4
