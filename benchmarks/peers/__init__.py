"""What a user would pick instead, side by side: torchao, ONNX Runtime, optimum-quanto, NNCF and MCT.

    PLISSE_PEERS=DIR python -m benchmarks.peers [--small] [--only NAME] [--network NAME]
                           [--setting W4A4] [--match TEXT] [--seconds S]

ResNet-20 (1,017 lossless CIFAR-10 test images; 256 unlabelled `val` images to calibrate) and MiniLM (Spearman
on STS-B dev; 512 unlabelled training sentences) go through every tool with the best methods that it offers
for 8 to 2 bits within a few minutes. Each tool runs in an environment of its own, DIR/NAME/bin/python, on
one thread; one that is missing is reported as such. Results: benchmarks/results/peers.json, ranked rows with
tool, network, setting (W bits, A bits), method, calibration, score (points of 100), score_drop from floating
point, bytes, ratio, seconds and note.

bytes is the length of the file that the tool writes or documents. Many tools leave weights of few bits in
float32 or one byte each; for these packed_bytes tells what the file would take at best if they were packed
(batch norms folded, scales included, see `networks.packed_bytes`), and packed_ratio goes by it. The files of
the encoder have no tokenizer inside, other than ours. seconds hold the tool's own start-up and compilation.

Environments (each `python3.11 -m venv NAME`, then NAME/bin/pip install; nothing here needs a GPU build):

    torchao       -c constraints.txt torch==2.13.0 numpy safetensors transformers torchao==0.18.0
    onnxruntime   -c constraints.txt numpy torch==2.13.0 onnx onnxruntime onnxscript onnx-ir
    quanto        -c constraints.txt torch==2.13.0 numpy safetensors transformers optimum-quanto==0.2.7
                  (a C++ compiler and ninja for its kernels)
    nncf          -c constraints.txt torch==2.13.0 numpy nncf==3.4.0 openvino==2026.4.1
    mct           torch==2.13.0 model-compression-toolkit==2.6.1 safetensors 'pydantic<2.12', then
                  --no-deps torchvision==0.28.0 (its import needs the two operators that the worker declares)
"""
