//! Just enough XML to answer in the EC2 Query protocol.

use std::fmt::Display;

/// A document in the making.
#[derive(Debug, Default)]
pub struct Xml(String);

impl Xml {
    pub fn new() -> Self {
        Self("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned())
    }

    /// `<name>text</name>`.
    pub fn leaf(&mut self, name: &str, text: impl Display) -> &mut Self {
        self.0.push_str(&format!("<{name}>{}</{name}>", escape(&text.to_string())));
        self
    }

    /// `<name>…</name>` around what `inside` writes; `name` may carry attributes.
    pub fn node(&mut self, name: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.0.push_str(&format!("<{name}>"));
        inside(self);
        let end = name.split(' ').next().unwrap_or(name);
        self.0.push_str(&format!("</{end}>"));
        self
    }

    /// `<name><item>…</item>…</name>`.
    pub fn set<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.node(name, |x| {
            for item in items {
                x.node("item", |x| each(x, item));
            }
        })
    }

    pub fn finish(self) -> String {
        self.0
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nests_and_escapes() {
        let mut x = Xml(String::new());
        x.node("a b=\"1\"", |x| {
            x.set("s", [1, 2], |x, n| {
                x.leaf("n", n);
            });
            x.leaf("t", "<&>");
        });
        assert_eq!(x.finish(), "<a b=\"1\"><s><item><n>1</n></item><item><n>2</n></item></s><t>&lt;&amp;&gt;</t></a>");
    }
}
