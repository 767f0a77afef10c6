package verifier_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/pgtest"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

func TestAStoreThatIsAwayIsSaid(t *testing.T) {
	server := pgtest.Start(t)
	db, err := sqldb.OpenPostgres(t.Context(), sqldb.PostgresConfig{URL: server.Database(t), Schema: "verifier"})
	check(t, err)
	t.Cleanup(func() { check(t, db.Close()) })
	w := newWorldOn(t, migrated(t, db))
	w.make()
	receipt, _ := w.redeem(w.nodes[0], sale{reference: testpsp.RefOK})
	first, _ := w.redeem(w.nodes[0], sale{reference: testpsp.RefOK})
	w.present(first) // so that the node's key is known
	server.Kill(t)
	_, err = w.verifier().PresentReceipt(t.Context(), &verifierv1.PresentReceiptRequest{Receipt: receipt})
	if status.Code(err) != codes.Unavailable || rpcerr.Reason(err) != errorsv1.Reason_REASON_STORE_UNAVAILABLE {
		t.Errorf("got %v", err)
	}
	server.Resume(t)
	if got := w.present(receipt).GetPurchaseId(); got == "" {
		t.Error("with the server back there is no purchase")
	}
}
