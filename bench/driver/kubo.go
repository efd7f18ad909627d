package main

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// kubo is two kubo daemons on loopback that know nobody but each other. They are spoken to over
// their HTTP API, as the command ipfs does, but without the start of that command, which would count
// against them.
type kubo struct {
	b    *bench
	apis [2]string
}

func (b *bench) kubo() (*kubo, error) {
	k := &kubo{b: b}
	var peers [2]string
	for i := range k.apis {
		var err error
		if k.apis[i], peers[i], err = b.kuboDaemon(filepath.Join(b.dir, fmt.Sprintf("kubo-%d", i))); err != nil {
			return nil, err
		}
	}
	return k, k.post(1, "swarm/connect", url.Values{"arg": {peers[0]}}, "", nil, nil)
}

// kuboDaemon starts one daemon and gives the addresses of its API and of its peer.
func (b *bench) kuboDaemon(repo string) (api, addr string, err error) {
	env := []string{"IPFS_PATH=" + repo, "IPFS_TELEMETRY=off"}
	for _, args := range [][]string{
		{"init", "--empty-repo", "--profile", "test"},
		{"config", "Addresses.Swarm", "--json", `["/ip4/127.0.0.1/tcp/0"]`},
		{"config", "Routing.Type", "dht"},
		{"config", "AutoConf.Enabled", "--json", "false"},
		{"config", "DNS.Resolvers", "--json", "{}"},
		{"config", "Routing.DelegatedRouters", "--json", "[]"},
		{"config", "Ipns.DelegatedPublishers", "--json", "[]"},
	} {
		cmd := exec.CommandContext(b.ctx, b.o.kubo, args...)
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", "", fmt.Errorf("ipfs %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	pr, err := b.procs.start(env, b.o.kubo, "daemon")
	if err != nil {
		return "", "", err
	}
	for {
		line, err := pr.line(b.ctx, readyTimeout)
		if err != nil {
			return "", "", err
		}
		if strings.Contains(line, "Daemon is ready") {
			break
		}
	}
	go func() { // or it would block on a full pipe
		for pr.out.Scan() {
		}
	}()
	raw, err := os.ReadFile(filepath.Join(repo, "api")) // /ip4/127.0.0.1/tcp/PORT
	if err != nil {
		return "", "", err
	}
	parts := strings.Split(strings.TrimSpace(string(raw)), "/")
	api = "http://127.0.0.1:" + parts[len(parts)-1] + "/api/v0/"
	var id struct{ Addresses []string }
	if err := (&kubo{b: b, apis: [2]string{api}}).post(0, "id", nil, "", nil, &id); err != nil {
		return "", "", err
	}
	return api, id.Addresses[0], nil
}

// post calls one of the two APIs and decodes the answer: into JSON, or it hands the body to a
// function.
func (k *kubo) post(which int, route string, q url.Values, contentType string, body io.Reader, into any) error {
	req, err := http.NewRequestWithContext(k.b.ctx, http.MethodPost, k.apis[which]+route+"?"+q.Encode(), body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<12)) // what there is of it
		return fmt.Errorf("kubo %s: %s: %s", route, resp.Status, text)
	}
	switch into := into.(type) {
	case nil:
		return nil
	case func(io.Reader) error:
		return into(resp.Body)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// transfer adds a file to the first daemon and gets it from the second; the latter counts.
func (k *kubo) transfer(path string, sum [32]byte) (float64, error) {
	cid, err := k.add(path)
	if err != nil {
		return 0, err
	}
	out := path + ".fetched"
	begin := time.Now()
	err = k.post(1, "get", url.Values{"arg": {cid}, "archive": {"true"}}, "", nil, func(r io.Reader) error {
		t := tar.NewReader(r)
		if _, err := t.Next(); err != nil {
			return err
		}
		f, err := os.Create(out)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, t); err != nil {
			f.Close()
			return err
		}
		return f.Close()
	})
	took := time.Since(begin)
	if err != nil {
		return 0, err
	}
	if err := same(out, sum); err != nil {
		return 0, err
	}
	time.Sleep(pause)
	return float64(took), os.Remove(path)
}

// add gives the CID of a file, as `ipfs add --cid-version=1` would.
func (k *kubo) add(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	r, w := io.Pipe()
	form := multipart.NewWriter(w)
	go func() {
		part, err := form.CreateFormFile("file", "artefact")
		if err == nil {
			_, err = io.Copy(part, f)
		}
		if err == nil {
			err = form.Close()
		}
		w.CloseWithError(err)
	}()
	var added struct{ Hash string }
	q := url.Values{"cid-version": {"1"}, "pin": {"false"}}
	if err := k.post(0, "add", q, form.FormDataContentType(), r, &added); err != nil {
		return "", err
	}
	return added.Hash, nil
}
