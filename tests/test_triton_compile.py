"""Every Triton kernel compiles for a Hopper GPU, on a machine that has none.

Triton's compiler needs a target, not a device: a stand-in driver names sm_90, and `warmup` compiles what a launch would run.
The code that comes out is looked at for what the design relies on: tensor cores, asynchronous loads, no atomic additions."""
import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("triton")


def compiled(code) -> str:
    "Output of a fresh interpreter in which launches only compile"
    head = """
        import torch, triton
        from triton.backends.compiler import GPUTarget
        class Driver:
            def get_current_device(self): return 0
            def get_current_stream(self, device=None): return 0
            def get_current_target(self): return GPUTarget("cuda", 90, 32)
            def get_active_torch_device(self): return torch.device("cpu")
        triton.runtime.driver.set_active(Driver())
        from brainlab.kernels import column_decode, column_triton, launch, selective_scan, selective_scan_triton, ssd, ssd_triton
        from brainlab.kernels.column_mlp import example
        assert not launch.interpreted
        built = {}
        def compile_only(kernel, grid, *args, **constants):
            if 0 not in grid: built[kernel.fn.__name__] = kernel.warmup(*args, grid=grid, **constants)
        column_decode.launch = column_triton.launch = selective_scan_triton.launch = ssd_triton.launch = compile_only
        def check(dtype, **sizes):
            x, index, gate, *weights = [o.requires_grad_() if o.is_floating_point() else o for o in example(dtype=dtype, **sizes)]
            c, d = len(weights[0]), x.shape[1]
            column_decode.decode(x, index, gate, *weights, residual=x)
            column_decode.route(x, torch.zeros(c, d, dtype=dtype), index.shape[1], torch.zeros(c, c), torch.zeros(c))
            column_triton.shared(x, index, gate, *weights)
            column_triton.grouped_triton(x, index, gate, *weights).sum().backward()
        def check_scan(page, form, **sizes):
            y, last = form.tiled(**{k: v.requires_grad_() for k, v in page.example(**sizes).items()})
            (y.sum() + last.sum()).backward()
    """
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    r = subprocess.run([sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)], env=env, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr[-3000:]
    return r.stdout


def test_kernels_use_the_machine():
    said = compiled("""
        check(torch.bfloat16, t=64, k=6, c=32, s=64, d=1024)
        for name, k in sorted(built.items()):
            ptx = k.asm["ptx"]
            print(name, "wgmma" in ptx, "mma.sync" in ptx, "cp.async" in ptx, "atom." in ptx, "ld.global.v4" in ptx or "cp.async.cg" in ptx, k.metadata.shared <= 227 * 1024)
    """)
    rows = {line.split()[0]: [o == "True" for o in line.split()[1:]] for line in said.splitlines()}
    assert set(rows) == {"_scores", "_decode_up", "_decode_down", "_shared_hidden", "_shared_project", "_add", "_hidden", "_project", "_hidden_backward", "_weight_gradient"}
    for name, (wgmma, mma, cp_async, atomic, wide, fits) in rows.items():
        assert fits and wide and atomic == (name == "_scores"), name
        assert wgmma == (name in ("_hidden", "_project", "_hidden_backward", "_weight_gradient")) and mma == name.startswith("_shared"), name
        if name in ("_shared_hidden", "_shared_project", "_hidden", "_hidden_backward", "_weight_gradient"): assert cp_async, name


def test_attention_uses_the_machine():
    said = compiled("""
        from brainlab.kernels import local_attention_triton as page
        page.launch = lambda kernel, grid, *args, **constants: compile_only(kernel, grid, *args, **constants)
        leaf = lambda *shape: torch.randn(*shape, dtype=torch.bfloat16).requires_grad_()
        page.selective_triton(*(leaf(1, 2, 1024, 64) for _ in range(3)), leaf(1, 2, 96, 64), leaf(1, 2, 96, 64), leaf(1, 96), 64, 6).sum().backward()
        for name, k in sorted(built.items()):
            ptx = k.asm["ptx"]
            print(name, "wgmma" in ptx, "cp.async" in ptx, "atom." in ptx, k.metadata.shared <= 227 * 1024)
    """)
    rows = said.splitlines()
    assert {r.split()[0] for r in rows} == {"_band_forward", "_band_queries", "_band_keys"}
    for r in rows: assert r.split()[1:] == ["True", "True", "False", "True"], r


def test_odd_sizes_compile():
    compiled("""
        check(torch.bfloat16, t=1, k=1, c=1, s=1, d=1)
        check(torch.float16, t=3, k=2, c=5, s=3, d=33, gated=True)
    """)


def test_rows_of_the_loss_compile():
    said = compiled("""
        from brainlab.kernels import cross_entropy_triton
        cross_entropy_triton.launch = compile_only
        for dtype in (torch.float32, torch.bfloat16):
            for learns in (False, True): cross_entropy_triton.rows_in_triton(torch.zeros(3, 50304, dtype=dtype), torch.zeros(3, 1, dtype=torch.long), learns)
        ptx = built["_rows"].asm["ptx"]
        print("ld.global.v4" in ptx, "st.global.v4" in ptx)
    """)
    assert said.split() == ["True", "True"]


def test_scans_use_the_machine():
    said = compiled("""
        check_scan(ssd, ssd_triton, dtype=torch.bfloat16, b=2, t=130, h=4, w=64, g=1, n=64)
        check_scan(selective_scan, selective_scan_triton, dtype=torch.bfloat16, b=2, t=130, d=256, n=16)
        for name, k in sorted(built.items()): print(name, "wgmma" in k.asm["ptx"], "atom." in k.asm["ptx"], k.metadata.shared <= 227 * 1024)
    """)
    rows = {line.split()[0]: [o == "True" for o in line.split()[1:]] for line in said.splitlines()}
    assert set(rows) == {"_states", "_pass", "_outputs", "_gradients", "_forward", "_backward"}
    for name, (wgmma, atomic, fits) in rows.items(): assert fits and not atomic and wgmma == (name in ("_states", "_outputs", "_gradients")), name


def test_odd_scans_compile():
    compiled("""
        check_scan(ssd, ssd_triton, dtype=torch.float32, b=1, t=3, h=2, w=3, g=1, n=5)
        check_scan(ssd, ssd_triton, dtype=torch.float16, b=1, t=1, h=1, w=1, g=1, n=1)
        check_scan(selective_scan, selective_scan_triton, dtype=torch.float16, b=1, t=3, d=3, n=3)
    """)


def test_update_of_a_pool_uses_the_machine():
    said = compiled("""
        from brainlab.kernels import pool_triton
        pool_triton.launch = compile_only
        run = lambda *rows, **kind: sum(o.sum() for o in pool_triton.update_triton(*(o.requires_grad_() for o in pool_triton.example(*rows, **kind)))).backward()
        run(2, 256, d=256, dtype=torch.bfloat16)
        for name, k in sorted(built.items()): print(name, "wgmma" in k.asm["ptx"], "cp.async" in k.asm["ptx"], "atom." in k.asm["ptx"], k.metadata.shared <= 227 * 1024)
        run(1, 3, d=33, dtype=torch.float16)
    """)
    assert [r.split() for r in said.splitlines()] == [[name, "True", "True", "False", "True"] for name in ("_update", "_update_backward")], said
