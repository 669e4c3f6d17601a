//! Who may come in and do what: password files and access rules, pure.
