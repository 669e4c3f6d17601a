//! Where fields of the kernel's structs are: a reader of BTF.
//!
//! The compiler of our programs leaves no relocations, so user space looks the
//! offsets up and hands them over. They differ from kernel to kernel; one that
//! is not found means that the program that needs it is not loaded.
//!
//! Format: the kernel's `Documentation/bpf/btf.rst`. The input is the kernel's
//! own, but nothing here trusts it: what does not fit is an error.

use std::collections::HashMap;
use std::path::Path;

/// The magic number, in the machine's own byte order.
const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
/// A vmlinux has some 150,000 types in 7 MB.
const BYTES_MAX: usize = 64 << 20;
const TYPES_MAX: usize = 4 << 20;
/// Unnamed structs in each other, and types that name others.
const DEPTH_MAX: usize = 16;
/// Members looked at for one field. The largest struct of a kernel has some 300;
/// unnamed ones that hold each other would otherwise never end.
const MEMBERS_MAX: u32 = 100_000;

const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// Why BTF cannot be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BtfError {
    /// The file is not there or cannot be read.
    #[error("cannot read {path}: {why}")]
    Unreadable {
        /// Where.
        path: String,
        /// What the kernel says.
        why: String,
    },
    /// It is not what it should be.
    #[error("BTF: {0}")]
    Malformed(&'static str),
    /// A struct has no such field, or is not there.
    #[error("this kernel's {of} has no field {field}")]
    Missing {
        /// The struct.
        of: String,
        /// The field, with those in between.
        field: String,
    },
}

/// The types of a kernel, and perhaps of one of its modules.
#[derive(Debug, Default)]
pub struct Btf {
    types: Vec<Type>,
    /// Members of structs and unions: name, type, offset in bits.
    members: Vec<(u32, u32, u32)>,
    strings: Vec<u8>,
    by_name: HashMap<Vec<u8>, Vec<u32>>,
}

#[derive(Clone, Copy, Debug)]
struct Type {
    kind: u32,
    /// The type that it names, of those that do.
    target: u32,
    /// Its members.
    first: usize,
    count: usize,
    /// Whether offsets hold the size of a bit field as well.
    packed: bool,
}

impl Btf {
    /// Of the running kernel, with the module of this name if it has types of
    /// its own.
    ///
    /// # Errors
    /// When the kernel shows none, or not as documented.
    pub fn of_kernel(module: Option<&str>) -> Result<Btf, BtfError> {
        let mut btf = Btf::default();
        btf.add(&read(Path::new("/sys/kernel/btf/vmlinux"))?)?;
        if let Some(module) = module {
            // Built in, its types are the kernel's.
            let path = Path::new("/sys/kernel/btf").join(module);
            if path.exists() {
                btf.add(&read(&path)?)?;
            }
        }
        Ok(btf)
    }

    /// Of one blob.
    ///
    /// # Errors
    /// When it is not BTF.
    pub fn parse(bytes: &[u8]) -> Result<Btf, BtfError> {
        let mut btf = Btf::default();
        btf.add(bytes)?;
        Ok(btf)
    }

    /// The offset in bytes of a field, such as `ns.inum`, in a struct.
    ///
    /// # Errors
    /// When there is none.
    pub fn offset(&self, of: &str, field: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::Missing { of: of.into(), field: field.into() };
        let candidates = self.by_name.get(of.as_bytes()).ok_or_else(missing)?;
        let mut left = MEMBERS_MAX;
        candidates.iter().find_map(|id| self.path(*id, field, &mut left)).ok_or_else(missing)
    }

    fn path(&self, mut id: u32, field: &str, left: &mut u32) -> Option<u32> {
        let mut bits: u32 = 0;
        for name in field.split('.') {
            let (offset, inner) = self.member(id, name.as_bytes(), 0, left)?;
            bits = bits.checked_add(offset)?;
            id = inner;
        }
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// A member's offset in bits and its type; looks into unnamed ones, at no
    /// more members than are `left`.
    fn member(&self, id: u32, wanted: &[u8], depth: usize, left: &mut u32) -> Option<(u32, u32)> {
        let this = self.types.get(self.resolve(id)? as usize)?;
        if depth > DEPTH_MAX || !matches!(this.kind, STRUCT | UNION) {
            return None;
        }
        let members = self.members.get(this.first..this.first.checked_add(this.count)?)?;
        for &(name, inner, offset) in members {
            *left = left.checked_sub(1)?;
            let offset = if this.packed { offset & 0x00ff_ffff } else { offset };
            let name = self.name(name)?;
            if name == wanted {
                return Some((offset, inner));
            }
            if name.is_empty()
                && let Some((further, inner)) = self.member(inner, wanted, depth + 1, left)
            {
                return Some((offset.checked_add(further)?, inner));
            }
        }
        None
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<u32> {
        for _ in 0..DEPTH_MAX {
            let this = self.types.get(id as usize)?;
            match this.kind {
                // typedef, volatile, const, restrict, type tag
                8..=11 | 18 => id = this.target,
                _ => return Some(id),
            }
        }
        None
    }

    fn name(&self, offset: u32) -> Option<&[u8]> {
        let rest = self.strings.get(offset as usize..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some(&rest[..end])
    }

    /// Types and strings go on where those before end, as a module's do.
    fn add(&mut self, bytes: &[u8]) -> Result<(), BtfError> {
        const SHORT: BtfError = BtfError::Malformed("it ends too early");
        if bytes.len() > BYTES_MAX {
            return Err(BtfError::Malformed("it is larger than 64 MiB"));
        }
        if bytes.len() < HEADER || bytes[..2] != MAGIC.to_ne_bytes() {
            return Err(BtfError::Malformed("it does not begin as BTF"));
        }
        let word = |at: usize| -> Result<u32, BtfError> {
            let bytes = bytes.get(at..at.wrapping_add(4)).ok_or(SHORT)?;
            Ok(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let header = word(4)? as usize;
        let section = |offset: u32, len: u32| -> Result<std::ops::Range<usize>, BtfError> {
            let from = header.checked_add(offset as usize).ok_or(SHORT)?;
            let to = from.checked_add(len as usize).ok_or(SHORT)?;
            (to <= bytes.len()).then_some(from..to).ok_or(SHORT)
        };
        let types = section(word(8)?, word(12)?)?;
        let strings = section(word(16)?, word(20)?)?;
        self.strings.extend_from_slice(&bytes[strings]);
        if self.types.is_empty() {
            // Type 0 is void.
            self.types.push(Type { kind: 0, target: 0, first: 0, count: 0, packed: false });
        }
        let mut at = types.start;
        while at < types.end {
            let (name, info, target) = (word(at)?, word(at + 4)?, word(at + 8)?);
            let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            let first = self.members.len();
            at += 12;
            let extra = match kind {
                // int, variable, declaration tag
                1 | 14 | 17 => 4,
                // array
                3 => 12,
                STRUCT | UNION | 15 | 19 => 12 * count,
                // enum, function prototype
                6 | 13 => 8 * count,
                // pointer, forward, typedef, qualifiers, function, float, type tag
                0 | 2 | 7..=12 | 16 | 18 => 0,
                _ => return Err(BtfError::Malformed("a kind of type that is not known")),
            };
            if at.checked_add(extra).is_none_or(|end| end > types.end) {
                return Err(SHORT);
            }
            if matches!(kind, STRUCT | UNION) {
                for member in (at..at + extra).step_by(12) {
                    self.members.push((word(member)?, word(member + 4)?, word(member + 8)?));
                }
                if name != 0 {
                    let id = self.types.len() as u32;
                    let name = self.name(name).ok_or(SHORT)?.to_owned();
                    self.by_name.entry(name).or_default().push(id);
                }
            }
            if self.types.len() >= TYPES_MAX {
                return Err(BtfError::Malformed("it has more than 4 million types"));
            }
            let count = if matches!(kind, STRUCT | UNION) { count } else { 0 };
            self.types.push(Type { kind, target, first, count, packed: info >> 31 == 1 });
            at += extra;
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BtfError> {
    std::fs::read(path).map_err(|error| BtfError::Unreadable {
        path: path.display().to_string(),
        why: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int a; union { struct inner b; int c; }; }` with
    /// `struct inner { int x; int y; }` behind a typedef.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0inner\0x\0y\0alias\0outer\0a\0b\0c\0";
        let name = |wanted: &str| {
            let bytes = [b"\0", wanted.as_bytes(), b"\0"].concat();
            let at = strings.windows(bytes.len()).position(|w| w == bytes).expect("a name");
            at as u32 + 1
        };
        let kind = |kind: u32, count: u32| kind << 24 | count;
        let mut types: Vec<u32> = Vec::new();
        types.extend([name("int"), kind(1, 0), 4, 32]); // 1
        types.extend([name("inner"), kind(4, 2), 8, name("x"), 1, 0, name("y"), 1, 32]); // 2
        types.extend([name("alias"), kind(8, 0), 2]); // 3
        types.extend([0, kind(5, 2), 8, name("b"), 3, 0, name("c"), 1, 0]); // 4
        types.extend([name("outer"), kind(4, 2), 12, name("a"), 1, 0, 0, 4, 32]); // 5
        blob(&types, strings)
    }

    fn blob(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut blob = Vec::new();
        blob.extend(MAGIC.to_ne_bytes());
        blob.extend([1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            blob.extend(word.to_ne_bytes());
        }
        blob.extend(types);
        blob.extend(strings);
        blob
    }

    #[test]
    fn fields_are_found_through_unnamed_ones_and_typedefs() {
        let btf = Btf::parse(&sample()).expect("BTF");
        assert_eq!(btf.offset("outer", "a"), Ok(0));
        assert_eq!(btf.offset("outer", "c"), Ok(4));
        assert_eq!(btf.offset("outer", "b.y"), Ok(8));
        let error = btf.offset("outer", "b.z").expect_err("no such field");
        assert_eq!(error.to_string(), "this kernel's outer has no field b.z");
        btf.offset("nowhere", "a").expect_err("no such struct");
    }

    #[test]
    fn a_module_s_types_and_names_go_on_where_the_kernel_s_end() {
        let base = sample();
        let mut btf = Btf::parse(&base).expect("BTF");
        // `struct nf { struct outer o; int n; }`: 5 is the kernel's, as are names
        // below the length of its strings.
        let end = u32::from_ne_bytes(base[20..24].try_into().expect("four bytes"));
        let (nf, o, n) = (end + 1, end + 4, end + 6);
        let types = [nf, 4 << 24 | 2, 16, o, 5, 0, n, 1, 96];
        btf.add(&blob(&types, b"\0nf\0o\0n\0")).expect("split BTF");
        assert_eq!(btf.offset("nf", "n"), Ok(12));
        assert_eq!(btf.offset("nf", "o.b.y"), Ok(8), "across the two");
        assert_eq!(btf.offset("outer", "a"), Ok(0));
    }

    #[test]
    fn unnamed_structs_that_hold_each_other_come_to_an_end() {
        // `struct s { struct s; struct s; ... }`, a thousand times: each look
        // would take a thousand more, 16 deep.
        let members = (0..1_000).flat_map(|_| [0, 1, 0]);
        let types: Vec<u32> = [1, 4 << 24 | 1_000, 8].into_iter().chain(members).collect();
        let btf = Btf::parse(&blob(&types, b"\0s\0")).expect("BTF");
        btf.offset("s", "x").expect_err("no such field");
    }

    #[test]
    fn what_is_cut_off_or_garbled_is_an_error_and_no_panic() {
        let whole = sample();
        for end in 0..whole.len() {
            Btf::parse(&whole[..end]).expect_err("cut off");
        }
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                if let Ok(btf) = Btf::parse(&bytes) {
                    let _ = btf.offset("outer", "b.y");
                    let _ = btf.offset("inner", "x");
                }
            }
        }
    }

    #[test]
    #[allow(clippy::print_stderr)]
    fn the_running_kernel_s_own_is_read() {
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            eprintln!("NOT RUN: this kernel shows no BTF");
            return;
        }
        let btf = Btf::of_kernel(Some("nf_conntrack")).expect("BTF");
        assert!(btf.offset("sock", "__sk_common.skc_num").is_ok());
        assert!(btf.offset("inet_sock", "inet_sport").is_ok());
    }
}
