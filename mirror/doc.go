// Package mirror copies somebody else's cell to this machine: it decides when that is due (decide.go, a
// pure function), fetches and verifies what a manifest names, makes an ordinary cell directory of it that
// appears complete or not at all (install.go), and collects those that nobody uses any more (collect.go).
//
// It owns the directory of the foreign cells and what is in it, but not the nuclei that run there: those
// are started and stopped by whoever has a Store. It owns no host, no DHT and no blocks: bytes come in
// through Fetcher.
package mirror
