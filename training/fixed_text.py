"""A text that no stage trains on, so that a policy's loss of plain language shows as a rise of its perplexity."""

FIXED_TEXT = """\
The ferry leaves at seven in the morning, when the harbour is still half asleep. On most days it carries two dozen
people: nurses on their way home from the night shift, a teacher with a bag of exercise books, and the man who repairs
the lighthouse lamp. The crossing takes forty minutes if the wind is kind. When it is not, the captain turns the bow
into the waves, apologises over the loudspeaker, and promises coffee to anyone who can still drink it.

Bread needs very little: flour, water, salt and time. Mix the first three in a bowl until no dry flour is left, cover
it with a cloth, and leave it on the table overnight. In the morning the dough will have doubled and smell faintly of
apples. Fold it a few times, let it rest for an hour, and bake it in a hot oven until the crust is dark brown and the
loaf sounds hollow when you knock on its underside.

A magnet attracts iron because of the way electrons move inside the metal. Each of them behaves like a tiny magnet of
its own. In most materials these point in every direction and cancel one another; in iron, large groups of them line
up, and an outside field can turn whole groups at once. Heat shakes them out of line again, which is why a magnet that
has been in a fire no longer holds a nail.

Maria had not planned to become the treasurer of the chess club. She had only asked, at her second meeting, whether
anybody knew how much money was in the tin. Nobody did. By the end of the evening she had counted it twice, written the
sum on the back of an envelope, and been elected without a vote. Three years later the club had new clocks, a heated
room, and a ledger in which every coffee was accounted for.

If a shop sells pencils at three for a dollar, then a dozen cost four dollars. If the price rises by a quarter, the
same dozen costs five. A customer who has only four dollars can now buy nine pencils and will have a little left over,
which is not enough for another one. The shopkeeper may round the price down, but she is under no obligation to.

Dear Mr Okafor, thank you for your letter of the third of March. We are sorry that the parcel reached you with a broken
lid. A replacement was sent this morning and should arrive before the weekend; there is no need to return the damaged
one. Please let us know if anything else is missing, and accept our apologies for the trouble.

Most rivers begin as something one could step across. Rain falls on a hill, finds the lowest place, and is joined by
other rain. Along its way a river carries stones, then sand, then only mud, and drops each of them where the water
slows. The flat land near the sea is made of what the mountains have lost.
"""
