;; world: sizing-policy, alone
;; Wants 128 MiB before it does anything.
(memory (export "memory") 2048)
(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32) (i32.const 0))
