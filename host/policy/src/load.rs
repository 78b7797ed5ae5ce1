//! From bytes to a component that can be called: what it is, what it wants, what it offers.

use reservoir_core::policy::Function;
use wasmtime::{
    StoreContextMut,
    component::{InstancePre, Linker, types::ComponentItem},
};

use crate::{
    convert::{self, log},
    digest::Digest,
    guest::Guest,
    limits::Limits,
    runtime::Runtime,
    wasi,
};

/// Why a component cannot be used. Each is for its author to mend; the last good one stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("the component is empty: the file has 0 bytes; copy it again")]
    Empty,
    #[error("the component has {bytes} bytes; at most {most} are loaded: strip it, or build it with size optimisation")]
    TooLarge { bytes: usize, most: usize },
    #[error("the component's SHA-256 is {found}, but {wanted} is pinned: load the pinned file, or pin this one")]
    WrongDigest { found: Digest, wanted: Digest },
    #[error(
        "this is not WebAssembly: it begins with {0}; give the .wasm component, not its source, text or archive form"
    )]
    NotWasm(String),
    #[error(
        "this is a core module, not a component: build it for target wasm32-wasip2, or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    #[error("the component is cut off: {0}; copy the whole file")]
    Truncated(String),
    #[error("the component is not valid here: {0}")]
    Invalid(String),
    #[error(
        "the component imports {0}, which is not offered: a policy has reservoir:policy/log@0.1 and an empty WASI 0.2 (cli, clocks, filesystem, io, random, sockets)"
    )]
    ImportNotOffered(String),
    #[error("the component uses {0}, but this host speaks reservoir:policy@0.1: rebuild it against wit/policy.wit")]
    WrongVersion(String),
    #[error(
        "the component exports none of reservoir:policy/sizing@0.1, planning@0.1 and subnets@0.1, but {0}: export at least one"
    )]
    NoExports(String),
}

/// A compiled component, its imports resolved, ready to be called.
pub struct Component {
    digest: Digest,
    bytes: usize,
    imports: Vec<String>,
    exports: Vec<Function>,
    pub(crate) runtime: Runtime,
    pub(crate) pre: InstancePre<Guest>,
    pub(crate) sizing: Option<convert::sizing::GuestIndices>,
    pub(crate) planning: Option<convert::planning::GuestIndices>,
    pub(crate) subnets: Option<convert::subnets::GuestIndices>,
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component")
            .field("digest", &self.digest)
            .field("bytes", &self.bytes)
            .field("imports", &self.imports)
            .field("exports", &self.exports)
            .finish_non_exhaustive()
    }
}

impl Component {
    /// SHA-256 of its bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Size of the file it came from.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Names of what it imports, such as `wasi:io/streams@0.2.6`.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    /// The functions it owns: at least one, in the order sizing, planning, subnets.
    #[must_use]
    pub fn exports(&self) -> &[Function] {
        &self.exports
    }

    /// Whether it owns `function`.
    #[must_use]
    pub fn owns(&self, function: Function) -> bool {
        self.exports.contains(&function)
    }

    /// Checks, compiles and links `bytes`. Compiling takes a second per megabyte or so: not for a thread that has
    /// other work.
    pub(crate) fn load(runtime: &Runtime, bytes: &[u8], pin: Option<Digest>) -> Result<Component, LoadError> {
        let digest = Digest::of(bytes);
        check_file(bytes, runtime.limits(), digest, pin)?;
        let engine = runtime.engine();
        let compiled = runtime.compile(bytes, digest).map_err(|e| invalid(&e))?;
        let ty = compiled.component_type();
        let imports: Vec<String> = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
        let mut linker = Linker::new(engine);
        for (name, item) in ty.imports(engine) {
            link(&mut linker, name, &item.ty, engine)?;
        }
        // What is left are functions of WASI that need what nobody can have: calling one traps with its name.
        linker.define_unknown_imports_as_traps(&compiled).map_err(|e| invalid(&e))?;
        let exports = exports(ty.exports(engine).map(|(name, _)| name))?;
        let pre = linker.instantiate_pre(&compiled).map_err(|e| invalid(&e))?;
        let owns = |f| exports.contains(&f);
        Ok(Component {
            sizing: owns(Function::Sizing)
                .then(|| convert::sizing::GuestIndices::new(&pre))
                .transpose()
                .map_err(bad)?,
            planning: owns(Function::Planning)
                .then(|| convert::planning::GuestIndices::new(&pre))
                .transpose()
                .map_err(bad)?,
            subnets: owns(Function::Subnets)
                .then(|| convert::subnets::GuestIndices::new(&pre))
                .transpose()
                .map_err(bad)?,
            digest,
            bytes: bytes.len(),
            imports,
            exports,
            runtime: runtime.clone(),
            pre,
        })
    }
}

fn bad(error: wasmtime::Error) -> LoadError {
    invalid(&error)
}

fn invalid(error: &wasmtime::Error) -> LoadError {
    LoadError::Invalid(format!("{error:#}"))
}

/// What can be told before compiling.
fn check_file(bytes: &[u8], limits: &Limits, digest: Digest, pin: Option<Digest>) -> Result<(), LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    if bytes.len() > limits.component_bytes {
        return Err(LoadError::TooLarge { bytes: bytes.len(), most: limits.component_bytes });
    }
    if let Some(wanted) = pin
        && wanted != digest
    {
        return Err(LoadError::WrongDigest { found: digest, wanted });
    }
    // A magic number, then version and layer: 1 and 0 for a core module, 13 and 1 for a component.
    const MAGIC: &[u8] = b"\0asm";
    if bytes.len() < 8 && MAGIC.starts_with(&bytes[..bytes.len().min(4)]) {
        return Err(LoadError::Truncated(format!("it ends within its header, after {} bytes", bytes.len())));
    }
    match bytes.strip_prefix(MAGIC) {
        None => Err(LoadError::NotWasm(format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(8)])))),
        Some([1, 0, 0, 0, ..]) => Err(LoadError::CoreModule),
        Some(_) => check_sections(bytes),
    }
}

/// A cut-off copy is the commonest damage and deserves its own words: every section (an identifier, its length as
/// LEB128, its content) must end within the file.
fn check_sections(bytes: &[u8]) -> Result<(), LoadError> {
    let cut = || LoadError::Truncated(format!("it ends within a section, after {} bytes", bytes.len()));
    let mut rest = bytes.get(8..).ok_or_else(cut)?;
    while let Some((_, after)) = rest.split_first() {
        let (mut length, mut shift) = (0u64, 0);
        rest = after;
        loop {
            let (&byte, after) = rest.split_first().ok_or_else(cut)?;
            rest = after;
            length |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            // A length that does not end is for the validator to describe.
            if byte & 0x80 == 0 || shift > 28 {
                break;
            }
        }
        rest = usize::try_from(length).ok().and_then(|length| rest.get(length..)).ok_or_else(cut)?;
    }
    Ok(())
}

/// An import's or export's name without its version, and the version. Such as `("wasi:io/streams", "0.2.6")`.
fn split(name: &str) -> (&str, &str) {
    name.split_once('@').unwrap_or((name, ""))
}

/// Whether `version` is `minor` (such as `"0.1"`) or a patch of it.
fn within(version: &str, minor: &str) -> bool {
    version.strip_prefix(minor).is_some_and(|rest| rest.starts_with('.'))
}

/// Defines what the component imports under the very name it uses: versions within 0.1 and 0.2 are all the same.
fn link(
    linker: &mut Linker<Guest>,
    name: &str,
    item: &ComponentItem,
    engine: &wasmtime::Engine,
) -> Result<(), LoadError> {
    let (interface, version) = split(name);
    let package = interface.split('/').next().unwrap_or(interface);
    let not_offered = |what: &str| Err(LoadError::ImportNotOffered(what.to_owned()));
    let ComponentItem::ComponentInstance(instance) = item else {
        return not_offered(name);
    };
    match (package, interface) {
        ("reservoir:policy", _) if !within(version, "0.1") => Err(LoadError::WrongVersion(name.to_owned())),
        (_, "reservoir:policy/types") => Ok(()),
        (_, "reservoir:policy/log") => {
            let unknown = instance
                .exports(engine)
                .find(|(f, item)| *f != "write" && matches!(item.ty, ComponentItem::ComponentFunc(_)));
            if let Some((function, _)) = unknown {
                return not_offered(&format!("{name}#{function}"));
            }
            let mut instance = linker.instance(name).map_err(bad)?;
            instance
                .func_wrap("write", |mut cx: StoreContextMut<'_, Guest>, (level, line): (log::Level, String)| {
                    cx.data_mut().log.add(convert::level_back(level), &line);
                    Ok(())
                })
                .map_err(bad)
        }
        _ if wasi::PACKAGES.contains(&package) && within(version, "0.2") => {
            let resources = instance
                .exports(engine)
                .filter_map(|(name, item)| matches!(item.ty, ComponentItem::Resource(_)).then_some(name));
            wasi::define(&mut linker.instance(name).map_err(bad)?, interface, resources).map_err(bad)
        }
        _ => not_offered(name),
    }
}

/// Which functions a component with these exports owns.
fn exports<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<Function>, LoadError> {
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for name in names {
        let (interface, version) = split(name);
        let function = match interface {
            "reservoir:policy/sizing" => Function::Sizing,
            "reservoir:policy/planning" => Function::Planning,
            "reservoir:policy/subnets" => Function::Subnets,
            _ => {
                others.push(name);
                continue;
            }
        };
        if !within(version, "0.1") {
            return Err(LoadError::WrongVersion(name.to_owned()));
        }
        ours.push(function);
    }
    if ours.is_empty() {
        let what = if others.is_empty() { "nothing at all".to_owned() } else { others.join(", ") };
        return Err(LoadError::NoExports(what));
    }
    ours.sort_unstable();
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_patch_of_the_contract_will_do() {
        assert!(within("0.1.0", "0.1") && within("0.1.7", "0.1"));
        for other in ["0.2.0", "0.10.0", "", "1.0.0", "0.1"] {
            assert!(!within(other, "0.1"), "{other}");
        }
    }

    #[test]
    fn exports_are_told_by_name() {
        let of = |names: &[&str]| exports(names.iter().copied());
        let both = of(&["reservoir:policy/subnets@0.1.0", "wasi:cli/run@0.2.0", "reservoir:policy/sizing@0.1.1"]);
        assert_eq!(both, Ok(vec![Function::Sizing, Function::Subnets]));
        let wrong = "reservoir:policy/sizing@0.2.0";
        assert_eq!(of(&[wrong]), Err(LoadError::WrongVersion(wrong.into())));
        assert_eq!(of(&[]), Err(LoadError::NoExports("nothing at all".into())));
        assert_eq!(of(&["wasi:cli/run@0.2.0"]), Err(LoadError::NoExports("wasi:cli/run@0.2.0".into())));
    }
}
