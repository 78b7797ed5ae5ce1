//! WASI 0.2 with nothing behind it.
//!
//! The standard libraries of Rust, Go, Python and JavaScript import WASI whether a policy needs it or not. So the
//! imports are there, and empty: no arguments, environment, files or sockets; clocks stand at the snapshot's time,
//! random is seeded by the snapshot, sleeping returns at once; what is printed becomes log lines.
//!
//! Written by hand instead of taken from `wasmtime-wasi`: these are thirty functions that answer "nothing", and that
//! crate brings an async runtime, a file system layer and a thread pool to say the same. What no standard library calls
//! on start or panic is left to trap (see [`crate::load`]), with the import's name in the message.

use wasmtime::{
    Result, StoreContextMut, bail,
    component::{ComponentType, Lift, LinkerInstance, Lower, Resource, ResourceType, Val},
};

use crate::guest::Guest;

/// Packages of which all imports are linked.
pub(crate) const PACKAGES: [&str; 6] =
    ["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:io", "wasi:random", "wasi:sockets"];

/// Most random bytes at one time.
const RANDOM_BYTES: u64 = 64 << 10;
/// Most bytes that a stream says it has room for.
const WRITE_BYTES: u64 = 4096;

struct Input;
/// 0 is stdout, 1 is stderr.
struct Output;
struct Pollable;
struct IoError;

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(dead_code, reason = "the shape of the WIT type: writing to a log line never fails")]
    Failed(Resource<IoError>),
    #[component(name = "closed")]
    #[allow(dead_code, reason = "the shape of the WIT type: a log line is never closed")]
    Closed,
}

/// A function that takes anything and gives always the same.
fn constant(instance: &mut LinkerInstance<'_, Guest>, name: &str, value: fn(&mut Guest) -> Val) -> Result<()> {
    instance.func_new(name, move |mut cx, _, _, results| {
        if let Some(result) = results.first_mut() {
            *result = value(cx.data_mut());
        }
        Ok(())
    })
}

/// Defines one interface (`"wasi:io/streams"`, without its version) in the linker's instance of that name. `resources`
/// are the names of those it has, of its own or used from another interface: the same name is the same type everywhere.
pub(crate) fn define<'a>(
    instance: &mut LinkerInstance<'_, Guest>,
    interface: &str,
    resources: impl Iterator<Item = &'a str>,
) -> Result<()> {
    for name in resources {
        match name {
            "error" => resource::<IoError>(instance, name)?,
            "pollable" => resource::<Pollable>(instance, name)?,
            "input-stream" => resource::<Input>(instance, name)?,
            "output-stream" => resource::<Output>(instance, name)?,
            _ => resource::<()>(instance, name)?,
        }
    }
    match interface {
        "wasi:cli/environment" => {
            constant(instance, "get-environment", |_| Val::List(vec![]))?;
            constant(instance, "get-arguments", |_| Val::List(vec![]))?;
            constant(instance, "initial-cwd", |_| Val::Option(None))
        }
        "wasi:cli/exit" => {
            instance.func_new("exit", |_, _, _, _| bail!("the component called exit"))?;
            instance.func_new("exit-with-code", |_, _, _, _| bail!("the component called exit"))
        }
        "wasi:cli/stdin" => instance.func_wrap("get-stdin", |_, ()| Ok((Resource::<Input>::new_own(0),))),
        "wasi:cli/stdout" => instance.func_wrap("get-stdout", |_, ()| Ok((Resource::<Output>::new_own(0),))),
        "wasi:cli/stderr" => instance.func_wrap("get-stderr", |_, ()| Ok((Resource::<Output>::new_own(1),))),
        "wasi:cli/terminal-stdin" => constant(instance, "get-terminal-stdin", |_| Val::Option(None)),
        "wasi:cli/terminal-stdout" => constant(instance, "get-terminal-stdout", |_| Val::Option(None)),
        "wasi:cli/terminal-stderr" => constant(instance, "get-terminal-stderr", |_| Val::Option(None)),
        "wasi:clocks/wall-clock" => {
            constant(instance, "now", |guest| datetime(guest.now, 0))?;
            constant(instance, "resolution", |_| datetime(1, 0))
        }
        "wasi:clocks/monotonic-clock" => {
            constant(instance, "now", |guest| Val::U64(guest.now.saturating_mul(1_000_000_000)))?;
            constant(instance, "resolution", |_| Val::U64(1_000_000_000))?;
            instance.func_wrap("subscribe-instant", |_, (_,): (u64,)| Ok((Resource::<Pollable>::new_own(0),)))?;
            instance.func_wrap("subscribe-duration", |_, (_,): (u64,)| Ok((Resource::<Pollable>::new_own(0),)))
        }
        "wasi:filesystem/preopens" => constant(instance, "get-directories", |_| Val::List(vec![])),
        "wasi:random/random" => {
            instance.func_wrap("get-random-bytes", |cx, (n,): (u64,)| Ok((random_bytes(cx, n)?,)))?;
            constant(instance, "get-random-u64", |guest| Val::U64(guest.random.next()))
        }
        "wasi:random/insecure" => {
            instance.func_wrap("get-insecure-random-bytes", |cx, (n,): (u64,)| Ok((random_bytes(cx, n)?,)))?;
            constant(instance, "get-insecure-random-u64", |guest| Val::U64(guest.random.next()))
        }
        "wasi:random/insecure-seed" => constant(instance, "insecure-seed", |guest| {
            Val::Tuple(vec![Val::U64(guest.random.next()), Val::U64(guest.random.next())])
        }),
        "wasi:io/poll" => poll(instance),
        "wasi:io/streams" => streams(instance),
        // Types alone, or functions that need what nobody can have, such as an open file.
        _ => Ok(()),
    }
}

fn resource<T: 'static>(instance: &mut LinkerInstance<'_, Guest>, name: &str) -> Result<()> {
    instance.resource(name, ResourceType::host::<T>(), |_, _| Ok(()))
}

fn datetime(seconds: u64, nanoseconds: u32) -> Val {
    Val::Record(vec![("seconds".into(), Val::U64(seconds)), ("nanoseconds".into(), Val::U32(nanoseconds))])
}

fn random_bytes(mut cx: StoreContextMut<'_, Guest>, n: u64) -> Result<Vec<u8>> {
    if n > RANDOM_BYTES {
        bail!("the component asked for {n} random bytes at once; it may have {RANDOM_BYTES}");
    }
    let random = &mut cx.data_mut().random;
    Ok((0..n).map(|_| random.next().to_be_bytes()[0]).collect())
}

/// Everything is ready at once: there is nothing to wait for.
fn poll(instance: &mut LinkerInstance<'_, Guest>) -> Result<()> {
    instance.func_wrap("[method]pollable.ready", |_, (_,): (Resource<Pollable>,)| Ok((true,)))?;
    instance.func_wrap("[method]pollable.block", |_, (_,): (Resource<Pollable>,)| Ok(()))?;
    instance.func_wrap("poll", |_, (all,): (Vec<Resource<Pollable>>,)| {
        Ok(((0..all.len()).filter_map(|i| u32::try_from(i).ok()).collect::<Vec<_>>(),))
    })
}

fn streams(instance: &mut LinkerInstance<'_, Guest>) -> Result<()> {
    let closed = |_: &mut Guest| Val::Result(Err(Some(Box::new(Val::Variant("closed".into(), None)))));
    for read in ["read", "blocking-read", "skip", "blocking-skip"] {
        constant(instance, &format!("[method]input-stream.{read}"), closed)?;
    }
    for splice in ["splice", "blocking-splice"] {
        constant(instance, &format!("[method]output-stream.{splice}"), closed)?;
    }
    instance.func_wrap("[method]input-stream.subscribe", |_, (_,): (Resource<Input>,)| {
        Ok((Resource::<Pollable>::new_own(0),))
    })?;
    instance.func_wrap("[method]output-stream.subscribe", |_, (_,): (Resource<Output>,)| {
        Ok((Resource::<Pollable>::new_own(0),))
    })?;
    constant(instance, "[method]output-stream.check-write", |_| {
        Val::Result(Ok(Some(Box::new(Val::U64(WRITE_BYTES)))))
    })?;
    for flush in ["flush", "blocking-flush"] {
        constant(instance, &format!("[method]output-stream.{flush}"), |_| Val::Result(Ok(None)))?;
    }
    for write in ["write", "blocking-write-and-flush"] {
        instance.func_wrap(
            &format!("[method]output-stream.{write}"),
            |mut cx: StoreContextMut<'_, Guest>, (stream, bytes): (Resource<Output>, Vec<u8>)| {
                cx.data_mut().print(usize::from(stream.rep() != 0), &bytes);
                Ok((Ok::<(), StreamError>(()),))
            },
        )?;
    }
    for zeroes in ["write-zeroes", "blocking-write-zeroes-and-flush"] {
        constant(instance, &format!("[method]output-stream.{zeroes}"), |_| Val::Result(Ok(None)))?;
    }
    Ok(())
}
