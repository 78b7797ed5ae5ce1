//! Why an AddNetwork found no address.
//!
//! The reply has no field for it, and a status other than OK would change what deployed plugins print (spec 02 §2.4).
//! So it travels in the response's metadata, which a plugin that does not know it leaves alone.

use tonic::metadata::{BinaryMetadataValue, MetadataMap};

/// The metadata key. Binary, so that any text goes through.
const KEY: &str = "reservoir-reason-bin";

/// The longest reason in bytes: metadata is meant for little.
const MAX_BYTES: usize = 1024;

/// Adds a reason to a response's metadata, cut to 1 KiB.
pub fn write(metadata: &mut MetadataMap, reason: &str) {
    let mut end = reason.len().min(MAX_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    metadata.insert_bin(KEY, BinaryMetadataValue::from_bytes(&reason.as_bytes()[..end]));
}

/// The reason in a response's metadata, if there is one.
pub fn read(metadata: &MetadataMap) -> Option<String> {
    let bytes = metadata.get_bin(KEY)?.to_bytes().ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_goes_through_and_long_ones_are_cut() {
        let mut metadata = MetadataMap::new();
        assert_eq!(read(&metadata), None);
        write(&mut metadata, "subnet-1 is full;\nnext try in 5\u{a0}s");
        assert_eq!(read(&metadata).as_deref(), Some("subnet-1 is full;\nnext try in 5\u{a0}s"));
        write(&mut metadata, &format!("x{}", "\u{e9}".repeat(1000)));
        let cut = read(&metadata).unwrap();
        assert_eq!(cut.len(), MAX_BYTES - 1, "at a character's end");
        assert!(cut.ends_with('\u{e9}'));
    }
}
