//! The engine: one per process, configured for small, short, deterministic calls.

use std::{path::Path, sync::Arc};

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, component::Component as Compiled,
};

use crate::{
    cache::Cache,
    digest::Digest,
    limits::Limits,
    load::{Component, LoadError},
    turn::Turns,
};

/// The engine cannot be set up: the machine lacks something (address space, threads), or the limits make no sense.
#[derive(Debug, thiserror::Error)]
#[error("the policy runtime does not start: {0}")]
pub struct RuntimeError(String);

/// Compiles components and lends them turns to run. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engine: EngineDebug,
    turns: Turns,
    limits: Limits,
    cache: Option<Cache>,
}

/// [`Engine`] prints nothing useful.
struct EngineDebug(Engine);

impl std::fmt::Debug for EngineDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

impl Runtime {
    /// Sets up the engine and its clock's thread, which sleeps while nothing runs.
    pub fn new(limits: &Limits) -> Result<Runtime, RuntimeError> {
        Runtime::with_cache(limits, None)
    }

    /// The same with a directory for compiled code; see [`crate::Options::cache`].
    pub fn with_cache(limits: &Limits, cache: Option<&Path>) -> Result<Runtime, RuntimeError> {
        let engine = Engine::new(&config(limits)).map_err(|e| RuntimeError(format!("{e:#}")))?;
        let turns = Turns::new(&engine, limits.concurrent).map_err(|e| RuntimeError(format!("its clock: {e}")))?;
        let (limits, cache) = (limits.clone(), cache.map(Cache::new));
        Ok(Runtime { inner: Arc::new(Inner { engine: EngineDebug(engine), turns, limits, cache }) })
    }

    /// Checks, compiles and links a component. With `pin`, its content must have that SHA-256.
    pub fn load(&self, bytes: &[u8], pin: Option<Digest>) -> Result<Component, LoadError> {
        Component::load(self, bytes, pin)
    }

    /// What each component may use.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Compiles `bytes`, or takes what an earlier run compiled of them.
    pub(crate) fn compile(&self, bytes: &[u8], digest: Digest) -> wasmtime::Result<Compiled> {
        let Some(cache) = &self.inner.cache else { return Compiled::new(self.engine(), bytes) };
        if let Some(compiled) = cache.get(self.engine(), digest) {
            return Ok(compiled);
        }
        let compiled = Compiled::new(self.engine(), bytes)?;
        cache.put(self.engine(), digest, &compiled);
        Ok(compiled)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine.0
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.inner.turns
    }
}

fn config(limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        // Same input, same bytes out.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        // One call at a time per instance; bookkeeping for asynchronous ones would cost each call.
        .concurrency_support(false)
        // Offsets in backtraces, at a third of the code's size.
        .generate_address_map(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(limits)));
    config
}

/// Slots for as many instances as have turns. They are address space until used; a used one keeps `KEEP` bytes so that
/// the next instance need not fault them in again.
fn pool(limits: &Limits) -> PoolingAllocationConfig {
    const KEEP: usize = 2 << 20;
    let turns = limits.concurrent.max(1);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(turns)
        .total_core_instances(turns * Limits::CORE_INSTANCES)
        .max_core_instances_per_component(Limits::CORE_INSTANCES)
        .total_memories(turns * Limits::MEMORIES)
        .max_memories_per_component(Limits::MEMORIES)
        .max_memories_per_module(Limits::MEMORIES)
        .total_tables(turns * Limits::TABLES)
        .max_tables_per_component(Limits::TABLES)
        .max_tables_per_module(Limits::TABLES)
        .table_elements(Limits::TABLE_ELEMENTS)
        .max_memory_size(limits.memory_bytes)
        // Reuse the slot that is warm before touching a cold one: the pool is as large as it was ever needed at once.
        .max_unused_warm_slots(0)
        .linear_memory_keep_resident(KEEP)
        .table_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}
