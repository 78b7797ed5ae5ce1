;; world: sizing-policy, alone
;; Has no room for what it is told, and says so by a trap.
(memory (export "memory") 1)
(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32) i32.const 0)
