#include "kernels.h"

#include "fastsi/parallel.h"

namespace fastsi {

void merge_states(const TensorView& outs, const TensorView& lses, const TensorView& out,
                  const TensorView& lse, int threads) {
  require_dims("outs", outs, 4);
  require_dims("lses", lses, 3);
  require_dims("out", out, 3);
  require_dims("lse", lse, 2);
  FASTSI_CHECK(is_float(outs.dtype), "outs: is ", name_of(outs.dtype), ", must be a floating type");
  const DType sums = outs.dtype == DType::f64 ? DType::f64 : DType::f32;
  require_dtype("lses", lses, sums);
  require_dtype("lse", lse, sums);
  require_dtype("out", out, outs.dtype);
  require_dense_last("outs", outs);
  require_contiguous("out", out);
  require_contiguous("lse", lse);
  FASTSI_CHECK(outs.shape[0] > 0, "outs: holds no partial result");
  for (int i = 0; i < 3; ++i) {
    require_size("lses", lses, i, outs.shape[i]);
    require_size("out", out, i, outs.shape[i + 1]);
    if (i < 2) require_size("lse", lse, i, outs.shape[i + 1]);
  }
  MergeTask task{outs.dtype,    outs.data,     lses.data,     out.data, lse.data,
                 outs.shape[0], outs.shape[2], outs.shape[3], {},       {}};
  for (int i = 0; i < 3; ++i) {
    task.outs_stride[i] = outs.stride[i];
    task.lses_stride[i] = lses.stride[i];
  }
  if (static_cast<double>(outs.numel()) < kSerialElements) threads = 1;
  const Kernels& kernel = kernels();
  parallel_for(outs.shape[1], threads, [&](std::int64_t row) { kernel.merge(task, row); });
}

}  // namespace fastsi
