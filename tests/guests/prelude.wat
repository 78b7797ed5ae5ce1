;; Memory, an allocator that never frees, and answers that are all right.
;;
;; result<sizes, string>: 0 tag; 4 targets; 12 reason; 20 wake-after-seconds; 28 refresh-subnets; 32 memo
;; result<plan, string>:  0 tag; 4 grow; 12 release; 20 remove; 28 drain; 36 reason; 44 wake; 52 refresh; 56 memo
;; result<list<string>, string>: 0 tag; 4 list
;; A list or string is a pointer and a length.
(memory (export "memory") 32)
(global $free (mut i32) (i32.const 65536))
(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
  (local $at i32)
  (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
  (global.set $free (i32.add (local.get $at) (local.get 3)))
  (local.get $at))

;; Whether the node has an extra fact.
(func $provoked (param $arguments i32) (result i32) (i32.load offset=128 (local.get $arguments)))

;; Sizes for one card: minimum-ips = 5.
(data (i32.const 1028) "\40\04\00\00\01\00\00\00")
(data (i32.const 1100) "\05\00\00\00")
(func $calm_sizes (result i32) (i32.const 1024))

;; An empty plan, or an empty ranking: zeros.
(func $calm (result i32) (i32.const 1536))
