package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multicodec"
	"github.com/multiformats/go-multihash"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/internal/ctl"
)

// announceWait is how long publish waits for the network to know of the cell. It goes on after.
const announceWait = 5 * time.Second

// publish makes the cell callable by its CID: program and schema become blocks, the manifest names
// them and is signed by the owner, and all is announced. Each step says what it does.
func (n *nucleus) publish(ctx context.Context, guard ctl.Guard, say func(string)) (ctl.Published, error) {
	op := "publish " + n.cfg.Cell.Name
	if err := n.mayPublish(op); err != nil {
		return ctl.Published{}, err
	}
	if err := n.swaps.catchUp(ctx, guard, say); err != nil {
		return ctl.Published{}, err
	}
	version, err := n.swaps.newVersion(swapRequest{})
	if err != nil {
		return ctl.Published{}, err
	}
	say("asking the program for its schema")
	schema, err := n.currentSchema(ctx)
	if err != nil {
		return ctl.Published{}, err
	}
	notes, err := n.mayFollow(ctx, guard, schema, version, say)
	if err != nil {
		return ctl.Published{}, err
	}
	say("adding the program")
	m, err := n.prepare(ctx, schema, version)
	if err != nil {
		return ctl.Published{}, err
	}
	say("signing the manifest")
	id, err := n.serving.publish(ctx, m, schema)
	if err != nil {
		return ctl.Published{}, err
	}
	if m.Alone == signed.AloneState && n.cfg.Cell.State == celltoml.StateUnsaid {
		notes = append(notes, `not all of its functions are pure, so nobody copies it unasked; if it keeps nothing from one call to the next, state = "none" under [cell] says so`)
	}
	n.adverts.write()
	say("announcing " + id.String())
	n.awaitAnnounced(ctx, id, say)
	name, err := n.nameIt(ctx, id)
	if err != nil {
		say("the name is not published yet, and goes on: " + err.Error())
	}
	return ctl.Published{CID: id.String(), Name: m.Name, Version: m.Version, IPNS: name, Note: strings.Join(notes, "; ")}, nil
}

// mayPublish says whether the cell may be published at all. Every way to do so asks.
func (n *nucleus) mayPublish(op string) error {
	switch {
	case n.cfg.Headless():
		return cellproto.Errorf(op, cellproto.BadInput, "a nucleus without a program has nothing to publish").
			WithHint("Set binary in cell.toml.")
	case n.mirror != nil:
		hint := ""
		if n.mirror.CID != "" {
			hint = "cellctl mirror add " + n.mirror.CID + " --public announces it as it is."
		}
		return cellproto.Errorf(op, cellproto.Denied, "it is a mirror: the cell is somebody else's").WithHint("%s", hint)
	case n.cfg.Privacy.Placement == celltoml.PlacementLocal:
		return cellproto.Errorf(op, cellproto.Denied, `placement is "local": this cell never leaves the machine`).
			WithHint("Set placement under [privacy] in cell.toml to public, if that is meant.")
	}
	return nil
}

// mayFollow refuses a version that breaks those who call by a schema which the last published one served, unless
// its major version is higher.
func (n *nucleus) mayFollow(ctx context.Context, guard ctl.Guard, schema *cellproto.Schema, version string, say func(string)) (notes []string, err error) {
	n.serving.mu.Lock()
	last, id := n.serving.lastPublished()
	var before *cellproto.Schema
	if last != nil {
		before, _ = n.serving.versionSchema(id, last) // one that is lost is held against nobody
	}
	n.serving.mu.Unlock()
	if before == nil {
		return nil, nil
	}
	guard.Force = guard.Force || majorRises(last.Version, version)
	v, err := n.judgeBy(ctx, guard, before, schema, say)
	if err != nil {
		return nil, err
	}
	if guard.Force {
		return v.told(), nil
	}
	return v.told(), v.refuse("publish "+n.cfg.Cell.Name, last.Version, "cellctl publish")
}

// prepare makes the program in bin/ blocks, and describes the cell with it.
func (n *nucleus) prepare(ctx context.Context, schema *cellproto.Schema, version string) (signed.Manifest, error) {
	artefact, err := n.addArtefact(ctx)
	if err != nil {
		return signed.Manifest{}, err
	}
	return n.manifest(ctx, artefact, schema, version)
}

// addArtefact makes the program's file blocks, and describes it.
func (n *nucleus) addArtefact(ctx context.Context) (signed.Artefact, error) {
	path := n.cfg.Path(n.cfg.Cell.Binary)
	file, err := n.blocks.AddFile(ctx, path)
	if err != nil {
		if cellproto.KindOf(err) == cellproto.NotFound {
			return signed.Artefact{}, cellproto.Errorf("publish "+n.cfg.Cell.Name, cellproto.NotFound, "there is no program: %w", err).
				WithHint("Build it: cellctl build %s", n.cfg.Dir)
		}
		return signed.Artefact{}, err
	}
	if want := n.cfg.Artefact.BLAKE3; want != "" && want != hex.EncodeToString(file.BLAKE3[:]) {
		return signed.Artefact{}, cellproto.Errorf("publish "+n.cfg.Cell.Name, cellproto.BadInput, "%s has the BLAKE3 %x, and blake3 under [artefact] in cell.toml is %s", path, file.BLAKE3, want).
			WithHint("Build the program that is meant, or correct or remove blake3.")
	}
	a := signed.Artefact{
		OS: runtime.GOOS, Arch: runtime.GOARCH, CID: signed.Link{Cid: file.CID}, Size: file.Size, BLAKE3: file.BLAKE3,
	}
	return a, nil
}

// currentSchema gives the schema of the program that is served.
func (n *nucleus) currentSchema(ctx context.Context) (*cellproto.Schema, error) {
	if n.cfg.Cell.Speaks == celltoml.JSONL {
		schema, err := readSchema(n.cfg.Path("schema.json"))
		if cellproto.KindOf(err) == cellproto.NotFound {
			return nil, cellproto.Errorf("publish "+n.cfg.Cell.Name, cellproto.NotFound, "%w", err).
				WithHint("A program that speaks jsonl ships schema.json beside cell.toml; cellctl init makes an example.")
		}
		return schema, err
	}
	conn, err := n.program.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return n.schemaOf(ctx, conn)
}

// manifest describes the cell as it is now.
func (n *nucleus) manifest(ctx context.Context, a signed.Artefact, schema *cellproto.Schema, version string) (signed.Manifest, error) {
	owner, err := peer.IDFromPrivateKey(n.identity.Account())
	if err != nil {
		return signed.Manifest{}, cellproto.Errorf("publish "+n.cfg.Cell.Name, cellproto.Corrupt, "%w", err)
	}
	cfg := n.cfg
	m := signed.Manifest{
		Name: cfg.Cell.Name, Version: version, Owner: cellproto.PeerID(owner.String()),
		Created: time.Now().UnixMilli(), Artefacts: []signed.Artefact{a}, Privacy: string(cfg.Privacy.Placement),
		Resources: signed.Resources{
			CPUMilli: int64(cfg.Resources.CPU * 1000), MemoryBytes: cfg.Resources.Memory,
			Concurrency: int64(cfg.Resources.Concurrency), GPU: cfg.Resources.GPU,
		},
		SLO: signed.SLO{MaxP99Ms: int64(cfg.SLO.MaxP99Ms), MinBandwidthMbps: int64(cfg.SLO.MinBandwidthMbps)},
	}
	m.Alone = aloneOf(cfg, schema)
	if cfg.Cell.Speaks == celltoml.JSONL {
		m.Speaks = string(cfg.Cell.Speaks)
	}
	if cfg.Auth.Challenge != celltoml.ChallengeSimple {
		m.Challenge = string(cfg.Auth.Challenge)
	}
	if schema != nil {
		link, err := schemaLink(schema)
		if err != nil {
			return signed.Manifest{}, err
		}
		m.Schema, m.SchemaHash = link, schema.Hash()
		m.Accepted = n.serving.accepted(schema)
	}
	if cfg.Artefact.Repo != "" {
		m.Source = &signed.Source{
			Repo: cfg.Artefact.Repo, Ref: cfg.Artefact.Ref, Commit: commitOf(ctx, cfg.Dir, cfg.Artefact.Ref), Build: cfg.Cell.Build,
		}
	}
	return m, nil
}

// aloneOf says why a cell is not to be copied unasked. What its owner says of state counts; else that all functions are
// pure has it keep none. Of any other it is not known, and a copy that gives other answers than the original is worse than none.
func aloneOf(cfg *celltoml.Config, schema *cellproto.Schema) signed.Alone {
	switch {
	case !cfg.SLO.CloneOnViolation:
		return signed.AloneOwner
	case len(cfg.Deps)+len(cfg.RemoteCells) > 0:
		return signed.AloneCalls
	case cfg.Cell.State == celltoml.StateKept, cfg.Cell.State == celltoml.StateUnsaid && !allPure(schema):
		return signed.AloneState
	}
	return ""
}

func allPure(schema *cellproto.Schema) bool {
	if schema == nil {
		return false
	}
	for _, fn := range schema.Functions {
		if !fn.Pure {
			return false
		}
	}
	return true
}

// schemaLink names the block with a schema's canonical JSON.
func schemaLink(schema *cellproto.Schema) (signed.Link, error) {
	p := cid.Prefix{Version: 1, Codec: uint64(multicodec.Json), MhType: multihash.SHA2_256, MhLength: -1}
	id, err := p.Sum(schema.Canonical())
	if err != nil {
		return signed.Link{}, cellproto.Errorf("name the schema", cellproto.Failed, "%w", err)
	}
	return signed.Link{Cid: id}, nil
}

// commitOf asks the system's git which commit ref is in the cell's own checkout; "" when there is
// none, and then nobody builds from source.
func commitOf(ctx context.Context, dir, ref string) string {
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", "-C", dir, "rev-parse", "--verify", "--quiet", "--end-of-options", ref+"^{commit}")
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(bytes.TrimSpace(out)))
}

const gitTimeout = 5 * time.Second // to look one name up in a local repository

// publish seals the manifest, keeps it, and serves and announces what it says. With nothing changed
// since the last time the CID is the same.
func (s *serving) publish(ctx context.Context, m signed.Manifest, schema *cellproto.Schema) (cid.Cid, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.publishLocked(ctx, m, schema)
}

func (s *serving) publishLocked(ctx context.Context, m signed.Manifest, schema *cellproto.Schema) (cid.Cid, error) {
	if err := s.n.mayPublish("publish " + m.Name); err != nil {
		return cid.Undef, err
	}
	if last, id := s.lastPublished(); last != nil {
		m = m.After(*last, id)
	}
	block, id, err := signed.SealManifest(m, s.n.identity.Account())
	if err != nil {
		return cid.Undef, err
	}
	if schema != nil {
		if err := s.n.blocks.PutBlock(ctx, m.Schema.Cid, schema.Canonical()); err != nil {
			return cid.Undef, err
		}
	}
	if err := s.n.blocks.PutBlock(ctx, id, block); err != nil {
		return cid.Undef, err
	}
	if err := s.keep(id, &m, block, schema); err != nil {
		return cid.Undef, err
	}
	if err := s.look(); err != nil {
		return cid.Undef, err
	}
	if s.manifest != nil && !s.id.Equals(id) {
		s.withdraw()
	}
	s.manifest, s.id, s.schema, s.version = &m, id, schema, m.Version
	if schema != nil {
		s.saveSchema(schema)
	}
	s.apply()
	s.announce(ctx)
	return id, nil
}

// withdraw ends the announcements of the version before. s.mu is held.
func (s *serving) withdraw() {
	s.n.dht.Withdraw(s.id)
	if s.manifest.Schema.Defined() {
		s.n.dht.Withdraw(s.manifest.Schema.Cid)
	}
	for _, a := range s.manifest.Artefacts { // whichever of them was announced
		s.n.dht.Withdraw(a.CID.Cid)
	}
}

// awaitAnnounced waits a little until somebody holds a provider record. It is no failure when
// nobody does yet: announcing goes on for as long as the nucleus runs.
func (n *nucleus) awaitAnnounced(ctx context.Context, id cid.Cid, say func(string)) {
	if !n.reachable() {
		say("not announced: the cell listens on its Unix socket only")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, announceWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		st := n.dht.AnnounceState(id)
		if st.Keys > 0 && st.Done == st.Keys {
			say(fmt.Sprintf("announced under %d keys", st.Done))
			return
		}
		if st.Err != nil && st.Done == 0 {
			say("not announced yet, and goes on: " + st.Err.Error())
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			say(fmt.Sprintf("announced under %d of %d keys, and goes on", st.Done, st.Keys))
			return
		}
	}
}

// nameIt publishes the IPNS name, which always leads to the newest version.
func (n *nucleus) nameIt(ctx context.Context, id cid.Cid) (string, error) {
	key, err := loadKey(n.cfg.Dir, nameKeyFile)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, announceWait)
	defer cancel()
	name, err := n.dht.PublishName(ctx, key, id)
	n.serving.mu.Lock()
	n.serving.name = name
	n.serving.mu.Unlock()
	return name, err
}
