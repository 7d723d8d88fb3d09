# Run SQL lines from standard input through DBD::SQLite with its defaults: perl client.pl FILE
use strict; use warnings; use DBI; use DBD::SQLite; use Time::HiRes 'time'; use JSON::PP;
my $db = DBI->connect("dbi:SQLite:dbname=$ARGV[0]", '', '', { RaiseError => 1, PrintError => 0 });
my ($ok, $refused, $error, $started) = (0, 0, '', time);
while (my $sql = <STDIN>) {
    chomp $sql;
    eval { $db->do($sql); $ok++; 1 } or do { $refused++; $error ||= $@; };
}
$error =~ s/ at .*//s;
print encode_json({ ok => $ok, refused => $refused, s => time - $started, error => $error, version => $DBD::SQLite::VERSION }), "\n";
