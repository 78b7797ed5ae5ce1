;; world: wasi-policy
;; Prints a hundred times 64 KiB without a line break.
(import "wasi:cli/stdout@0.2.6" "get-stdout" (func $stdout (result i32)))
(import "wasi:io/streams@0.2.6" "[method]output-stream.blocking-write-and-flush"
  (func $write (param i32 i32 i32 i32)))
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (local $left i32)
  (local $stream i32)
  (if (call $provoked (local.get 0)) (then
    (memory.fill (i32.const 262144) (i32.const 0x78) (i32.const 65536))
    (local.set $stream (call $stdout))
    (local.set $left (i32.const 100))
    (loop $again
      (call $write (local.get $stream) (i32.const 262144) (i32.const 65536) (i32.const 4096))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))
  (call $calm_sizes))
