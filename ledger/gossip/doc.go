// Package gossip is how the ledger's entries travel: /cell/ledger/1, by which a provider has its bill
// signed, and neighbours tell each other what is new. It owns the bytes of that protocol, the limits on
// what a peer may send, and the list of what this host publishes (Log). What an entry says it leaves to
// package ledger, and which peers to talk to, and when, to its user.
package gossip
