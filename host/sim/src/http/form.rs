//! `application/x-www-form-urlencoded`, the way the EC2 Query protocol uses it.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::model::refusal::Refusal;

/// The parameters of one request. What is not taken by the end is a parameter EC2 does not know.
#[derive(Debug, Default)]
pub struct Form(BTreeMap<String, String>);

impl Form {
    /// Decodes a body or query string; None: not such a form.
    pub fn parse(text: &str) -> Option<Self> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(key)?, decode(value)?))
        });
        decoded.collect::<Option<_>>().map(Self)
    }

    pub fn take(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    pub fn need(&mut self, key: &str) -> Result<String, Refusal> {
        self.take(key)
            .filter(|v| !v.is_empty())
            .ok_or_else(|| Refusal::new("MissingParameter", format!("The request must contain the parameter {key}")))
    }

    pub fn parsed<T: FromStr>(&mut self, key: &str) -> Result<Option<T>, Refusal> {
        self.take(key).map(|value| read(key, &value)).transpose()
    }

    /// `Key.1`, `Key.2`, … in order of their numbers.
    pub fn list(&mut self, key: &str) -> Vec<String> {
        self.numbers(key).into_iter().filter_map(|n| self.take(&format!("{key}.{n}"))).collect()
    }

    pub fn parsed_list<T: FromStr>(&mut self, key: &str) -> Result<Vec<T>, Refusal> {
        self.list(key).iter().map(|value| read(key, value)).collect()
    }

    /// The numbers that follow `key.`, ascending.
    pub fn numbers(&self, key: &str) -> Vec<u32> {
        let mut numbers: Vec<u32> = self
            .0
            .keys()
            .filter_map(|k| k.strip_prefix(key)?.strip_prefix('.')?.split('.').next()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// `Key.N.Key` and `Key.N.Value`.
    pub fn tags(&mut self, key: &str) -> Vec<(String, String)> {
        let mut tags = Vec::new();
        for n in self.numbers(key) {
            let name = self.take(&format!("{key}.{n}.Key")).unwrap_or_default();
            tags.push((name, self.take(&format!("{key}.{n}.Value")).unwrap_or_default()));
        }
        tags
    }

    /// # Errors
    /// Something is left that nobody took.
    pub fn finish(self) -> Result<(), Refusal> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(key) => {
                let message = format!("The parameter {key} is not recognized");
                Err(Refusal::new("UnknownParameter", message))
            }
        }
    }
}

fn read<T: FromStr>(key: &str, value: &str) -> Result<T, Refusal> {
    value
        .parse()
        .map_err(|_| Refusal::new("InvalidParameterValue", format!("Value ({value}) for parameter {key} is invalid.")))
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_and_takes_lists_in_numeric_order() {
        let mut form = Form::parse("Action=A%2fb&I.10=ten&I.2=t+w%C3%B6&Tag.1.Key=k&Tag.1.Value=&X=1").unwrap();
        assert_eq!(form.need("Action").unwrap(), "A/b");
        assert_eq!(form.list("I"), ["t wö", "ten"]);
        assert_eq!(form.tags("Tag"), [("k".to_owned(), String::new())]);
        assert_eq!(form.parsed::<u32>("X").unwrap(), Some(1));
        form.finish().unwrap();
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let mut form = Form::parse("Count=many&Stray=1").unwrap();
        assert_eq!(form.parsed::<u32>("Count").unwrap_err().code, "InvalidParameterValue");
        assert_eq!(form.need("Action").unwrap_err().code, "MissingParameter");
        let stray = form.finish().unwrap_err();
        assert_eq!(stray.code, "UnknownParameter");
        assert!(stray.message.contains("Stray"));
        assert!(Form::parse("a=%zz").is_none());
        assert!(Form::parse("a=%ff").is_none());
        assert!(Form::parse("a=%é").is_none());
    }
}
