;; world: wasi-policy
;; Looks for variables, arguments and directories; traps if it finds any.
(import "wasi:cli/environment@0.2.6" "get-environment" (func $environment (param i32)))
(import "wasi:cli/environment@0.2.6" "get-arguments" (func $arguments (param i32)))
(import "wasi:filesystem/preopens@0.2.6" "get-directories" (func $directories (param i32)))
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (call $environment (i32.const 4096))
  (call $arguments (i32.const 4104))
  (call $directories (i32.const 4112))
  (if (i32.or (i32.load (i32.const 4100)) (i32.or (i32.load (i32.const 4108)) (i32.load (i32.const 4116))))
    (then unreachable))
  (call $calm_sizes))
