// An outsider's verifier of a Tagout log. It shares no code with Tagout: the notes and the tree are those of Go's own
// checksum database. On Debian, without any proxy:
//
//	apt-get install golang-go golang-golang-x-mod-dev
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o verifier tests/verifier/main.go
//	verifier -key VKEY [-since CHECKPOINT [-continues PROOF]] [-entry FILE -included PROOF] LOG
//
// VKEY is a node's verifier key as the genesis lists it; LOG a folder with a copy of the log, or https://node:7470/log
// (SSL_CERT_FILE=ca.pem). Who signed an entry is for ssh-keygen to say: see `tagout log show INDEX --out DIR`.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var (
	key       = flag.String("key", "", "the node's verifier key")
	token     = flag.String("token", "", "a file with an API token, where the log is not open to everybody")
	since     = flag.String("since", "", "an older checkpoint that the log must continue")
	continues = flag.String("continues", "", "the proof by `tagout log prove --since`")
	entry     = flag.String("entry", "", "an entry by `tagout log show INDEX --raw`")
	included  = flag.String("included", "", "its proof by `tagout log prove INDEX`")
)

func reject(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "rejected: "+format+"\n", a...)
	os.Exit(1)
}

func must[T any](it T, err error) T {
	if err != nil {
		reject("%v", err)
	}
	return it
}

// Reads a file of the log; nil if it has none of this name.
func read(path string) []byte {
	log := flag.Arg(0)
	if !strings.HasPrefix(log, "https://") {
		file, err := os.ReadFile(filepath.Join(log, path))
		if os.IsNotExist(err) {
			return nil
		}
		return must(file, err)
	}
	request := must(http.NewRequest("GET", log+"/"+path, nil))
	if *token != "" {
		shown := strings.TrimSpace(string(must(os.ReadFile(*token))))
		request.Header.Set("Authorization", "Bearer "+shown)
	}
	answer := must(http.DefaultClient.Do(request))
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusNotFound {
		return nil
	}
	if answer.StatusCode != http.StatusOK {
		reject("%s: %s", path, answer.Status)
	}
	return must(io.ReadAll(answer.Body))
}

func open(what string, signed []byte) tlog.Tree {
	opened, err := note.Open(signed, note.VerifierList(must(note.NewVerifier(*key))))
	if err != nil {
		reject("%s: %v", what, err)
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 3 {
		reject("%s has fewer than three lines", what)
	}
	return tlog.Tree{N: must(strconv.ParseInt(lines[1], 10, 64)), Hash: must(tlog.ParseHash(lines[2]))}
}

// A proof's number, its hashes, and the checkpoint below them.
func parse(file, name string) (n int64, path []tlog.Hash, tree tlog.Tree) {
	head, checkpoint, _ := strings.Cut(string(must(os.ReadFile(file))), "\n\n")
	tree = open(file, []byte(checkpoint))
	for _, line := range strings.Split(strings.TrimPrefix(head, "c2sp.org/tlog-proof@v1\n"), "\n") {
		if number := strings.TrimPrefix(line, name); number != line {
			n = must(strconv.ParseInt(number, 10, 64))
		} else {
			path = append(path, must(tlog.ParseHash(line)))
		}
	}
	return n, path, tree
}

func main() {
	flag.Parse()
	tree := open("the checkpoint", read("checkpoint"))
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) (found []tlog.Hash, err error) {
		for _, i := range at {
			found = append(found, hashes[i])
		}
		return found, nil
	})

	// The entries, each chained to the one before it.
	var prev [32]byte
	for first := int64(0); first < tree.N; first += 256 {
		tile := tlog.Tile{H: 8, L: -1, N: first / 256, W: 256}
		if tree.N-first < 256 {
			tile.W = int(tree.N - first)
		}
		path := strings.Replace(tile.Path(), "tile/8/data", "tile/entries", 1)
		rest := read(path)
		for i := first; i < first+int64(tile.W); i++ {
			if len(rest) < 2 || len(rest) < 2+int(binary.BigEndian.Uint16(rest)) {
				reject("%s ends before entry %d", path, i)
			}
			data := rest[2 : 2+binary.BigEndian.Uint16(rest)]
			rest = rest[2+len(data):]
			if len(data) < 50 || data[0] != 1 {
				reject("entry %d is no entry of format 1", i)
			}
			if index := binary.BigEndian.Uint64(data[2:]); index != uint64(i) {
				reject("entry %d says that it is entry %d", i, index)
			}
			if !bytes.Equal(data[18:50], prev[:]) {
				reject("entry %d does not hold the SHA-256 of entry %d", i, i-1)
			}
			prev = sha256.Sum256(data)
			hashes = append(hashes, must(tlog.StoredHashes(i, data, reader))...)
		}
		if len(rest) > 0 {
			reject("%s has more than %d entries", path, tile.W)
		}
	}

	// The tree over them is the one that the node signed, and the tiles are that tree's.
	if root := must(tlog.TreeHash(tree.N, reader)); root != tree.Hash {
		reject("the entries have root %v, the checkpoint says %v", root, tree.Hash)
	}
	for _, tile := range tlog.NewTiles(8, 0, tree.N) {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		published := read(path)
		// Nodes do not keep partial tiles of hashes as files: they follow from the rest.
		if published == nil && tile.W < 256 {
			continue
		}
		if !bytes.Equal(published, must(tlog.ReadTileData(tile, reader))) {
			reject("%s is not what follows from the entries", path)
		}
	}

	if *since != "" {
		old := open("the older checkpoint", must(os.ReadFile(*since)))
		if old.N > tree.N {
			reject("the log has %d entries and had %d: its end was cut off", tree.N, old.N)
		}
		if tlog.CheckTree(must(tlog.ProveTree(tree.N, old.N, reader)), tree.N, tree.Hash, old.N, old.Hash) != nil {
			reject("the log of %d entries does not continue the older one of %d: it is a fork", tree.N, old.N)
		}
		if *continues != "" {
			n, path, newer := parse(*continues, "old ")
			if n != old.N || tlog.CheckTree(path, newer.N, newer.Hash, old.N, old.Hash) != nil {
				reject("%s does not prove that the log continues %s", *continues, *since)
			}
		}
	}
	if *included != "" {
		n, path, in := parse(*included, "index ")
		if tlog.CheckRecord(path, in.N, in.Hash, n, tlog.RecordHash(must(os.ReadFile(*entry)))) != nil {
			reject("%s does not prove that %s is entry %d", *included, *entry, n)
		}
	}
	fmt.Printf("accepted: %d entries with root %v\n", tree.N, tree.Hash)
}
