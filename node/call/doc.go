// Package call is the main job, both halves.
//
// The client half (Caller) resolves a target, finds its providers, races them, calls the winner and
// fails over. The server half (Server) takes a caller's frames, decides whether it may and whether
// there is room, and relays them to the program. Protocol by protocol: frames in server.go and
// links.go, adverts in advert.go, proofs and tokens in auth.go.
//
// It owns no process, no DHT, no blocks and no host: those come in through the small interfaces of
// CallerDeps and ServerDeps. Scoring is node/race's.
package call
