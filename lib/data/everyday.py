"""Everyday English-French sentence pairs, made from templates, a small lexicon and the word forms of pyrealb.

A row of ROWS is a weight, a template a language and what the clauses {A} and {B} in them have to be. A clause is
planned once for both languages (`clause`), then said in each (`english`, `french`). pyrealb only inflects words: order,
negation, clitics, elision and agreement are done here, which is much faster and covers what it gets wrong.
"""

import random
import re
from collections import namedtuple
from functools import cache

from pyrealb import NO, A, N, V, addToLexicon, getLemma, loadEn, loadFr

# LEXICON: "name: english=french, both"; a lower-case name for nouns (~ mass, ^ plural only, _ known: no "a"), an
# upper-case one for phrases (*adjective and m/f agree with the subject, {slots} as in ROWS); "adj" has each adjective's
# noun classes. VERBS: english=french=complements=flags, "~" a particle. Flags: may take p place, w company, h manner,
# l hour, b vehicle, a animal subject; s stative, i imparfait for the past, t time adverbs even so, n no progressive,
# o no habit, z never meant, k skill, r reflexive, u no future, y impersonal, g "à lui" and not "lui", d only "to him".
# TENSES: name=English=French=time adverbs=flags barred (also q questions, 1 negation, 0 affirmation)=weight. English is
# an auxiliary, verbs between and a form; French is verbs that take the infinitive and a tense ("past": pc or i).
# ROWS: {A} or {A.x} clause (x as in `english` and `french`; w what is asked), {name} of LEXICON, {determiner_class},
# (optional), +contractible, [tu/vous]. Clause: v verbs, t tenses, s subject, o object, n chance of "not", gap what is
# asked, x adverbs, f flags needed, not flags barred, q asked.
LEXICON = """
food: apple=pomme, orange, egg=œuf, cake=gâteau, sandwich, pizza, banana=banane, tomato=tomate, carrot=carotte,
pear=poire, cookie=biscuit staple: ~bread=pain, ~cheese=fromage, ~rice=riz, ~meat=viande, ~fish=poisson,
~chicken=poulet, ~soup=soupe, ~salad=salade, ~chocolate=chocolat, ~ham=jambon, ~ice cream=glace dish: sandwich,
cake=gâteau, pizza, meal=repas, ~soup=soupe, ~salad=salade drink: ~water=eau, ~milk=lait, ~wine=vin, ~beer=bière,
~orange juice=jus d'orange hot: ~coffee=café, ~tea=thé read: book=livre, newspaper=journal, magazine, novel=roman,
article, story=histoire, poem=poème mail: letter=lettre, message, card=carte, email=courriel watch: movie=film, match,
show=émission, video=vidéo song: song=chanson, tune=mélodie clothes: shirt=chemise, dress=robe, coat=manteau,
hat=chapeau, sweater=pull, skirt=jupe, jacket=veste, tie=cravate, scarf=écharpe, ^shoe=chaussure, ^sock=chaussette,
^boot=botte, ^glove=gant, ^glass=lunette car: car=voiture, truck=camion ride: _train, _bus, _plane=avion, _boat=bateau
machine: bike=vélo, motorcycle=moto, computer=ordinateur, washing machine=machine à laver thing: key=clé,
phone=téléphone, umbrella=parapluie, bag=sac, watch=montre, wallet=portefeuille, camera=appareil photo, pen=stylo,
pencil=crayon, notebook=cahier, ticket=billet, ring=bague, toy=jouet, ball=ballon, knife=couteau, suitcase=valise,
passport=passeport, dictionary=dictionnaire, guitar=guitare, photo furniture: table, bed=lit, desk=bureau, chair=chaise,
armchair=fauteuil, sofa=canapé, closet=placard fragile: cup=tasse, glass=verre, bottle=bouteille, plate=assiette, vase,
mirror=miroir, lamp=lampe device: _light=lumière, _lamp=lampe, _radio, _computer=ordinateur, _oven=four,
_heating=chauffage open: _door=porte, _window=fenêtre, _box=boîte, _drawer=tiroir, _suitcase=valise, _bag=sac room:
_kitchen=cuisine, _bedroom=chambre, _bathroom=salle de bain, _living room=salon, _house=maison, _garage,
_apartment=appartement kin: brother=frère, sister=sœur, ~mother=mère, ~father=père, uncle=oncle, aunt=tante, cousin,
son=fils, daughter=fille, ~grandmother=grand-mère, ~grandfather=grand-père, friend=ami, neighbor=voisin, ~boss=patron,
teacher=professeur, ^parent, ^child=enfant sibling: brother=frère, sister=sœur, cousin, friend=ami, daughter=fille role:
man=homme, woman=femme, boy=garçon, girl=fille, child=enfant, student=étudiant, doctor=médecin, tourist=touriste,
policeman=policier, waitress=serveuse, baker=boulanger animal: dog=chien, cat=chat, horse=cheval, bird=oiseau,
rabbit=lapin, cow=vache, mouse=souris, duck=canard gift: gift=cadeau, book=livre, flower=fleur, toy=jouet, watch=montre,
ring=bague, guitar=guitare, bike=vélo abstract: problem=problème, lesson=leçon, exercise=exercice, rule=règle,
sentence=phrase, question query: question, letter=lettre, message sight: _museum=musée, _castle=château, _church=église,
_city=ville, _station=gare, _village, _bridge=pont shop: bakery=boulangerie, bank=banque, pharmacy=pharmacie,
hotel=hôtel, restaurant, school=école, park=parc event: _meeting=réunion, _concert, _movie=film, _class=cours,
_party=fête, _match, _show=spectacle ADJ: rich=*riche, poor=*pauvre, tall=*grand, young=*jeune, kind=*gentil,
intelligent=*intelligent, strong=*fort, lazy=*paresseux, famous=*célèbre, serious=*sérieux, polite=*poli, shy=*timide,
funny=*drôle, proud=*fier, curious=*curieux, patient=*patient, calm=*calme, jealous=*jaloux, happy=*heureux MOOD:
tired=*fatigué, sad=*triste, sick=*malade, busy=*occupé, nervous=*nerveux, worried=*inquiet, angry=en colère, in a
hurry=*pressé STATUS: alone=*seul, married=*marié, ready=*prêt, French=*français, American=*américain,
Japanese=*japonais, German=*allemand VERY: {DEGREE} {ADJ}={DEGREE} {ADJ}, {DEGREE} {MOOD}={DEGREE} {MOOD} DEGREE:
very=très, too=trop, so=si, really=vraiment, a little=un peu CMP: taller than {who}=plus *grand que {who}, younger than
{who}=plus *jeune que {who}, older than {who}=plus *âgé que {who}, stronger than {who}=plus *fort que {who}, as tall as
{who}=aussi *grand que {who}, as lazy as {who}=aussi *paresseux que {who}, more patient than {who}=plus *patient que
{who}, less patient than {who}=moins *patient que {who} EASY: easy=facile, difficult=difficile, important,
dangerous=dangereux, impossible JOB: a teacher=professeur, a nurse=infirmier/infirmière, a lawyer=avocat/avocate, a
student=étudiant/étudiante, a journalist=journaliste, an actor=acteur/actrice, a singer=chanteur/chanteuse, a
waiter=serveur/serveuse, a baker=boulanger/boulangère, a musician=musicien/musicienne, an artist=artiste, a
cook=cuisinier/cuisinière NAME: Tom=Tom=m, Mary=Marie=f, Paul=Paul=m, Alice=Alice=f, John=John=m, Emma=Emma=f,
Lucas=Lucas=m, Sophie=Sophie=f, David=David=m, Anna=Anna=f, Jack=Jack=m, Julie=Julie=f DET: the=the=the=le=la=les,
a=a=some=un=une=des, some=some=some=de le=de la=des, this=this=these=ce=cette=ces, that=that=those=ce=cette=ces,
no===de=de=de, gen===le=la=les, which=which=which=quel=quelle=quels, what=what a=what=quel=quelle=quels, howmany=how
much=how many=combien de=combien de=combien de MANY: a lot of=beaucoup de, many=beaucoup de, several=plusieurs, a
few=quelques, two=deux, three=trois, ten=dix, too many=trop de MUCH: a lot of=beaucoup de, a little=un peu de, too
much=trop de, enough=assez de CUP: a cup of=une tasse de GLASS: a glass of=un verre de, a bottle of=une bouteille de
PRO: I=me=my=je=me=me=moi=mon ma mes, you=you=your=tu=te=te=toi=ton ta tes, he=him=his=il=le=lui=lui=son sa ses,
we=us=our=nous=nous=nous=nous=notre notre nos, you=you=your=vous=vous=vous=vous=votre votre vos,
they=them=their=ils=les=leur=eux=leur leur leurs, she=her=her=elle=la=lui=elle=son sa ses, it=it=its=il=le=lui=lui=son
sa ses, it=it=its=elle=la=lui=elle=son sa ses, they=them=their=elles=les=leur=elles=leur leur leurs ONE: everyone=tout
le monde, nobody=personne, somebody=quelqu'un TOWN: in Paris=à Paris, in London=à Londres, in France=en France, in
Japan=au Japon, in the United States=aux États-Unis, in Italy=en Italie, in Germany=en Allemagne, abroad=à l'étranger,
in the country=à la campagne, here=ici, at my grandmother's=chez ma grand-mère AT: at school=à l'école, at home=à la
maison, in the park=au parc, at the beach=à la plage, at the hospital=à l'hôpital, at the restaurant=au restaurant, at
the office=au bureau, at the library=à la bibliothèque, at the market=au marché, at the airport=à l'aéroport, in the
garden=dans le jardin, in the kitchen=dans la cuisine, at the swimming pool=à la piscine, there=là-bas, at church=à
l'église, in the mountains=à la montagne, at Tom's place=chez Tom, {TOWN}={TOWN} LOC: on {the_furniture}=sur
{the_furniture}, under {the_furniture}=sous {the_furniture}, in front of {the_furniture}=devant {the_furniture}, behind
{the_furniture}=derrière {the_furniture}, next to {the_furniture}=à côté de {the_furniture}, near {the_open}=près de
{the_open} CLOCK: {hour} o'clock={hour} heures, half past {hour}={hour} heures et demie, a quarter past {hour}={hour}
heures et quart, ten to {hour}={hour} heures moins dix, noon=midi HOUR: at {CLOCK}=à {CLOCK} BY: by car=en voiture, by
train=en train, by bus=en bus, by bike=à vélo, on foot=à pied HOW: slowly=lentement, quickly=rapidement, carefully=avec
soin, quietly=en silence WITH: with {who}=avec {who} LANG: French=le français, English=l'anglais, Spanish=l'espagnol,
German=l'allemand, history=l'histoire SPEAK: French=français, English=anglais, Spanish=espagnol, German=allemand,
Japanese=japonais AGE: {num} years old={num} ans, {num}={num} ans PAST: yesterday=hier, last week=la semaine dernière,
last night=hier soir, this morning=ce matin, last year=l'année dernière, last Saturday=samedi dernier, last month=le
mois dernier, last summer=l'été dernier, {few} days ago=il y a {few} jours, on {DAY}={DAY} FUTURE: tomorrow=demain,
tonight=ce soir, next week=la semaine prochaine, tomorrow morning=demain matin, soon=bientôt, this afternoon=cet
après-midi, next year=l'année prochaine, next month=le mois prochain, on {DAY}={DAY}, in {few} days=dans {few} jours
PRES: every day=tous les jours, every morning=tous les matins, on Sundays=le dimanche, every week=toutes les semaines,
every evening=tous les soirs, in the afternoon=l'après-midi, once a week=une fois par semaine NOW: now=maintenant, at
the moment=en ce moment, right now=en ce moment STATE: today=aujourd'hui, this morning=ce matin, tonight=ce soir OFTEN:
often=souvent, always=toujours, sometimes=parfois, rarely=rarement DAY: Monday=lundi, Tuesday=mardi, Wednesday=mercredi,
Thursday=jeudi, Friday=vendredi, Saturday=samedi, Sunday=dimanche MONTH: January=janvier, March=mars, May=mai,
June=juin, July=juillet, October=octobre adj: good=bon=food+staple+drink+hot+read+watch+shop,
delicious=délicieux=food+staple, big=gros=food+animal,
small=petit=food+car+machine+thing+furniture+fragile+room+animal+gift+sight+shop, cold=froid=drink,
interesting=intéressant=read+mail+watch+abstract+event, long=long=read+mail+event, boring=ennuyeux=read+watch+event,
funny=drôle=read+watch, old=vieux=read+watch+song+clothes+car+machine+thing+furniture+fragile+room+animal+sight,
new=nouveau=read+song+clothes+car+machine+thing+furniture+abstract+shop, short=court=read+mail,
important=important=mail+abstract+event, beautiful=beau=song+clothes+car+thing+furniture+fragile+room+gift+sight,
sad=triste=song, red=rouge=clothes+car+thing, black=noir=clothes+thing+animal, white=blanc=clothes+car+animal,
blue=bleu=clothes, green=vert=clothes, warm=chaud=clothes, expensive=cher=clothes+car+machine+thing+gift,
pretty=joli=clothes+gift, gray=gris=clothes, dirty=sale=clothes+fragile+room, fast=rapide=car,
modern=moderne=machine+furniture+room, useful=utile=thing, big=grand=furniture+fragile+room+sight+shop,
comfortable=confortable=furniture, clean=propre=fragile+room+clothes, quiet=calme=room, young=jeune=role+animal,
nice=sympathique=role, French=français=role, American=américain=role, intelligent=intelligent=role+animal,
simple=simple=abstract, difficult=difficile=abstract, famous=célèbre=sight NOT: not=pas, never=jamais, no longer=plus,
anymore=plus, yet=pas encore, nothing=rien AUX: be=am=are=is=are=are=are, was=was=were=was=were=were=were,
do=do=do=does=do=do=do, have=have=have=has=have=have=have IDIOM: where +is {the_thing}? {the_thing.p} +is {LOC}.=où est
{the_thing} ? {the_thing.p} est {LOC}., there +is {a_furniture} in {the_room}.=il y a {a_furniture} dans {the_room}.,
there are {q_animal} near {the_sight}.=il y a {q_animal} près de {the_sight}., there were {q_role} {AT}.=il y avait
{q_role} {AT}., is there {a_shop} near {the_sight}?=est-ce qu'il y a {a_shop} près de {the_sight} ?, there +is
{a_fragile} {LOC}.=il y a {a_fragile} {LOC}., there +is no {no_drink} left.=il n'y a plus {no_drink}., there +will be
{a_event} {FUTURE}.=il y aura {a_event} {FUTURE}., how old +is {own_kin}?=quel âge a {own_kin} ?, how +is
{own_kin}?=comment va {own_kin} ?, what +is {own_kin} called?=comment s'appelle {own_kin} ?, where +is {own_kin}?=où est
{own_kin} ?, where does {own_kin} live?=où habite {own_kin} ?, how much does {this_machine} cost?=combien coûte
{this_machine} ?, {this_machine} costs {num} euros.={this_machine} coûte {num} euros., what color +is {the_car}?=de
quelle couleur est {the_car} ?, thank you for {the_gift}.=merci pour {the_gift}., {what_gift}!={what_gift} !,
{what_room}!={what_room} !, would you like {CUP_hot}?=[voudrais-tu/voudriez-vous] {CUP_hot} ?, would you like
{GLASS_drink}?=[voudrais-tu/voudriez-vous] {GLASS_drink} ?, it +is {num} minutes from {the_sight}.=c'est à {num} minutes
de {the_sight}., it +is {CLOCK}.=il est {CLOCK}., my birthday +is in {MONTH}.=mon anniversaire est en {MONTH}., who +is
{that_role}?=qui est {that_role} ?, this +is {own_kin}.=voici {own_kin}., who does {this_thing} belong to?=à qui est
{this_thing} ?, what time is it?=quelle heure est-il ?, what +is your name?=comment [t'appelles-tu/vous appelez-vous] ?,
my name +is {NAME}.=je m'appelle {NAME}., how are you?=comment [vas-tu/allez-vous] ?
"""
VERBS = """
do: eat=manger=food+staple=pwha, drink=boire=drink+hot=pw, order=commander=food+staple+drink+hot=p,
buy=acheter=food+staple+drink+hot+thing+clothes=p, buy=acheter=car+furniture+read+machine=o,
bring=apporter=food+staple+drink+hot+gift=n, prepare=préparer=dish, read=lire=read=p, write=écrire=mail=p,
receive=recevoir=mail+gift=no, watch=regarder=watch=pw, listen to=écouter=song=pw, sing=chanter=song=p,
wear=porter=clothes=p, put ~on=mettre=clothes, wash=laver=clothes+car, take ~off=enlever=clothes, try
~on=essayer=clothes=o, choose=choisir=clothes+gift+read=no, drive=conduire=car=h, repair=réparer=car+machine=h,
sell=vendre=car+machine+furniture=o, find=trouver=thing+animal=nop, lose=perdre=thing+clothes=nopz, look
for=chercher=thing+animal=p, break=casser=fragile+furniture=noz, forget=oublier=thing+clothes=nopz,
hide=cacher=thing+gift=op, borrow=emprunter=thing+car=o, use=utiliser=thing+machine, steal=voler=thing+car+machine=no,
turn ~on=allumer=device, turn ~off=éteindre=device, open=ouvrir=open=h, close=fermer=open=h,
clean=nettoyer=room+fragile=h, paint=peindre=room+furniture=o, draw=dessiner=animal+sight, visit=visiter=sight=w,
take=prendre=ride, miss=rater=ride=noz, wait for=attendre=ride=p, feed=nourrir=animal, see=voir=watch+animal+sight=no,
answer=répondre à=query=o, explain=expliquer=abstract=o, learn=apprendre=LANG=p, study=étudier=LANG=pw,
finish=finir=read=no, start=commencer=read=no, speak=parler=SPEAK=k, look at=regarder=thing+animal+sight people:
see=voir=person=nop, meet=rencontrer=person=nop, help=aider=person, call=appeler=person, invite=inviter=person=n, wait
for=attendre=person=p, thank=remercier=person=n, listen to=écouter=person, look at=regarder=person,
kiss=embrasser=person=o, visit=rendre visite à=person=w, talk to=parler à=person=p, write to=écrire à=person,
answer=répondre à=person=no, follow=suivre=person=o, hear=entendre=person=no, think about=penser à=person=g, take care
of=se occuper de=person=gr, play with=jouer avec=person=p, work with=travailler avec=person=p, dance with=danser
avec=person=p, travel with=voyager avec=person, forgive=pardonner à=person=no, look for=chercher=person=p,
find=trouver=person=nop mind: remember=se souvenir de=person=sg, trust=faire confiance à=person=s,
know=connaître=person=si, love=aimer=person=si, hate=détester=person=si, admire=admirer=person=si,
believe=croire=person=s, understand=comprendre=person+abstract=s, need=avoir besoin
de=person+food+staple+thing+machine=sig, prefer=préférer=GEN=siu, like=aimer=GEN=siu, love=adorer=GEN=siu,
hate=détester=GEN=siu, have=avoir=thing+car+animal+machine+read=si, want=vouloir=food+staple+drink+hot+thing+gift=si,
have time=avoir le temps==si, live=habiter=TOWN=si, have money=avoir de l'argent==si, have=avoir=q_sibling=si regard:
know=connaître=person=si, love=aimer=person=si, hate=détester=person=si, admire=admirer=person=si, trust=faire confiance
à=person=s, help=aider=person dative: give=donner=gift+fragile=n, show=montrer=thing+read+gift, send=envoyer=mail+gift,
lend=prêter=thing+read+car=n, offer=offrir=gift=n, bring=apporter=food+staple+drink+hot+gift=n,
sell=vendre=car+machine=no, read=lire=read, explain=expliquer=abstract=d, write=écrire=mail,
return=rendre=thing+read=dno intr: sleep=dormir==pa, work=travailler==pwh, run=courir==pah, walk=marcher==pwh,
swim=nager==wk, dance=danser==pwk, sing=chanter==pwk, cry=pleurer==poz, laugh=rire==w, smile=sourire, travel=voyager==w,
wait=attendre==p, cook=cuisiner==k, study=étudier==pw, eat=manger==pwha, leave=partir==lwn, go out=sortir==wl,
come=venir==wl, come back=revenir==wl, smoke=fumer==p, shout=crier==p, talk=parler==w, drive=conduire==hk, come
home=rentrer à la maison==l, go home=rentrer à la maison==lw, work hard=travailler dur==p, have lunch=déjeuner==pwl,
have dinner=dîner==pwl, get up=se lever==lr, wake up=se réveiller==lr, go to bed=se coucher==lr, get dressed=se
habiller==hr, hurry=se dépêcher==nr, rest=se reposer==pr, have fun=se amuser==pwr, fall asleep=se endormir==nplr, go for
a walk=se promener==pwr, get married=se marier==nor, shave=se raser==lr, wash one's hands=se laver les mains==hr,
arrive=arriver==nl, brush one's teeth=se brosser les dents==hr, take a shower=prendre une douche==l, take a bath=prendre
un bain==l, have breakfast=prendre le petit déjeuner==pwl, do the dishes=faire la vaisselle==wh, do one's homework=faire
ses devoirs==pwh, go shopping=faire les courses==w, play cards=jouer aux cartes==pw, play soccer=jouer au football==wk,
play tennis=jouer au tennis==wk, play chess=jouer aux échecs==wk, play the piano=jouer du piano==k, pay the bill=payer
l'addition, play the guitar=jouer de la guitare==k, do the laundry=faire la lessive, make one's bed=faire son lit==h,
take pictures=prendre des photos==p, set the table=mettre la table, tell the truth=dire la vérité==n, ride a bike=faire
du vélo==kw, listen to the radio=écouter la radio==p, watch TV=regarder la télévision==pw, make a mistake=faire une
erreur==noz, take a break=faire une pause, change one's mind=changer d'avis==no, learn to swim=apprendre à nager, play
in the snow=jouer dans la neige==wa, go swimming=aller nager==w, clean the house=faire le ménage, lose weight=perdre du
poids==no, earn money=gagner de l'argent motion: go=aller=TO=wlb, return=retourner=TO=w, stay=rester=AT=w be:
be=être=MOOD+ADJ+VERY+STATUS=si, be=être=MOOD=sit, be=être=ADJ+VERY=si, be=être=JOB=si, be=être=AT=sit, be=avoir=AGE=si,
be=être=CMP=si, be late=être en retard==sit, be hungry=avoir faim==sit, be thirsty=avoir soif==sit, be cold=avoir
froid==sit, be right=avoir raison==si, be sleepy=avoir sommeil==sit, be lucky=avoir de la chance==si, be on
vacation=être en vacances==sit, be wrong=avoir tort==si, be afraid of dogs=avoir peur des chiens==si, have a
headache=avoir mal à la tête==sit, have a cold=avoir un rhume==sit, have a fever=avoir de la fièvre==sit reason: be
hungry=avoir faim==si, be=être=MOOD=si, be=être=MOOD=si, have a headache=avoir mal à la tête==si, be cold=avoir
froid==si, be sleepy=avoir sommeil==si, be late=être en retard==si, be thirsty=avoir soif==si, be afraid=avoir peur==si,
have a cold=avoir un rhume==si weather: rain=pleuvoir==y, snow=neiger==y, be cold=faire froid==yist, be hot=faire
chaud==yist, be windy=faire du vent==yist, be sunny=faire du soleil==yist, be dark=faire nuit==yis quality:
be=être=ADJ=si graded: be=être=VERY=si spot: be=être=LOC=si starting: start=commencer=HOUR=n, end=se terminer=HOUR=n
begin: start=commencer==n, end=se terminer==n owned: belong to=appartenir à=person=si asking: ask=demander à=person=no,
tell=dire à=person=no, advise=conseiller à=person=no think: think=penser==si, believe=croire==si, say=dire==s,
know=savoir==si get: buy=acheter=thing+clothes+gift, find=trouver=thing, borrow=emprunter=thing+machine,
receive=recevoir=gift+mail
"""
TENSES = """
tense: pres=do b=p=PRES==14, past=did b=past=PAST==22, prog=be g=p=NOW=sn=9, pprog=was g=i==sn=4, perf=have n=pc==sy=7,
fut=will b=f=FUTURE=u=9, going=be going to b=aller p=FUTURE=s=8, cond=would b=c==yu=2, can=can b=pouvoir p=FUTURE=sy=5,
could=could b=pouvoir c=FUTURE=sy1z=2, couldnt=could b=pouvoir pc=PAST=sy0q=2, must=must b=devoir p==syqz=3, plup=had
n=pq==syq=1, want=do want to b=vouloir p=FUTURE=syz=4, wanted=did want to b=vouloir i==syz=2, like=do like to b=aimer
p==synoqz=2, haveto=do have to b=devoir p=FUTURE=sy1z=4, hadto=did have to b=devoir pc=PAST=sy1z=2, should=should
b=devoir c=FUTURE=syz=4, need=do need to b=avoir besoin de p==syz=2, love=do love g=adorer p==syno1qz=1, hate=do hate
g=détester p==syno1q=1, wouldlike=would like to b=vouloir c=FUTURE=syz=4, used=did use to b=i==yo1q=2, just=have just
n=venir de p==sy1q=2, try=be trying to b=essayer de p==syn1z=1, tried=did try to b=essayer de pc=PAST=syn1z=1,
forgot=did forget to b=oublier de pc==sy1=1, decided=did decide to b=décider de pc==sy1z=1, started=did start
g=commencer à pc==syn1=1, stopped=did stop g=arrêter de pc==syn1q=1, hope=do hope to b=espérer p=FUTURE=sy1qz=1,
able=will be able to b=pouvoir f=FUTURE=syz=1, know=do know how to b=savoir p==syK=6, willhave=will have to b=devoir
f=FUTURE=sy1z=1, about=be about to b=être sur le point de p==sy1q=1, condperf=would have n=cp==syq=1, shouldhave=should
have n=devoir cp==syq=1, subj=do b=s==y=0, whenf=do b=f==s=0, ifi=did b=i==y=0, since=have n=p==1=0, sinceg=have been
g=p==sn1=0
"""
ROWS = """
80|{A}.|{A}.|s=any
30|{IDIOM}|{IDIOM}
14|{A.y}?|est-ce que {A} ?|q= n=.06
6|{A.w} {A.q}?|{A.w} est-ce que {A} ?|gap=what v=do,dative q= n=0
4|{A.w} {A.q}?|{A.w} est-ce que {A} ?|gap=which v=do,dative q= n=0
3|{A.w} {A.q}?|{A.w} est-ce que {A} ?|gap=howmany v=eat,drink,get,read,write,lose,sell,need,send q= n=0
3|{A.w} {A.q}?|{A.w} est-ce que {A} ?|gap=who v=people,mind q= n=0
3|{A}?|{A} ?|s=who n=.15 v=act t=past,pres,prog,going,want,can,fut
4|why {A.q}?|pourquoi est-ce que {A} ?|q= n=.25
3|when {A.q}?|quand est-ce que {A} ?|q= n=0 x=p v=act t=past,fut,going
3|where {A.q}?|où est-ce que {A} ?|q= n=0 f=p x=t v=act
2|what time {A.q}?|à quelle heure est-ce que {A} ?|q= n=0 f=l x=0 t=past,pres,fut,going,want,should
1|how long {A.q}?|combien de temps est-ce que {A} ?|q= n=0 v=sleep,work,study,stay t=past,fut,going x=p
1|how {A.q}?|comment est-ce que {A} ?|q= n=0 v=break,repair,find,open,meet,come_home t=past x=0
4|{A.i}!|{A.i} !|s=you x=p n=0 v=act not=oz t=fut
6|{A.i}.|{A.i}.|s=you v=act not=oz n=.35 t=fut
2|{A.i}.|{A.i}.|s=we v=do,intr x=t not=oz n=.1 t=fut
3|please {A.i}.|{A.i}, s'il [te/vous] plaît.|s=you n=.2 x=p v=act not=oz t=fut
3|{A} because {B}.|{A} parce que {B}.|t=past x=0 v=intr,do,motion|v=reason s=same t=past n=0
2|{A} because {B}.|{A} parce que {B}.|t=pres,going,want x=0 n=.3 v=intr,motion|v=weather t=pres,prog n=0 x=0
2|{A} because {B}.|{A} parce que {B}.|t=pres x=0 v=regard n=.2|v=quality s=obj t=pres n=0 x=0
3|{A} when {B}.|{A} quand {B}.|t=pprog n=.1 x=p|t=past n=0 s=other v=arrive,come_home,call,meet,come_back x=0
2|when {A}, {B}.|quand {A}, {B}.|t=past v=arrive,come_home,come_back,leave n=0 x=0|t=pprog n=.1 s=other x=p
2|when {A}, {B}.|quand {A}, {B}.|t=whenf v=arrive,come_home,get_up n=0 x=0|t=fut n=.1 x=p s=same v=act
2|if {A}, {B}.|si {A}, {B}.|t=pres v=weather x=0 n=.2|t=fut x=0 v=do,people,intr,motion
3|if {A}, {B}.|si {A}, {B}.|t=pres v=come,leave,help,invite,sell,find,call x=0 n=.2|t=fut s=other x=0 v=intr,be n=.2
2|if {A}, {B}.|si {A}, {B}.|t=ifi v=have_time,have_money,have n=.1 x=0|t=cond s=same x=0 n=0 v=do,people,motion
1|if {A}, {B}.|si {A}, {B}.|t=plup x=0 v=do,intr,people|t=condperf s=other x=0 v=people,intr n=.2
3|{A}, but {B}.|{A}, mais {B}.|t=wouldlike,want x=0 n=0 v=intr,do,motion|v=reason s=same t=pres n=0 x=0
2|{A}, but {B}.|{A}, mais {B}.|t=wanted x=0 n=0 v=intr,do,motion|v=reason s=same t=past n=0
3|I think (that) {A}.|je pense que {A}.|s=other
3|{A} (that) {B}.|{A} que {B}.|v=think t=pres n=0 x=0|s=other x=t
2|{A} (that) {B}.|{A} que {B}.|v=think t=past n=0 x=0|t=plup,cond,pprog x=p n=.25
2|{A} (that) {B}.|{A} que {B}.|v=think t=past n=0 x=0|t=past v=be,mind x=0 s=same f=i
2|do you know if {A}?|est-ce que [tu sais/vous savez] si {A} ?|s=third n=0
2|I don't know why {A}.|je ne sais pas pourquoi {A}.|s=third
3|I want {A.s}.|je veux que {A}.|t=subj s=other v=act n=0 x=0
3|{A} to {B.b}.|{A} pour {B.b}.|v=motion t=past,fut,going,want,pres x=0 n=0|s=same v=do,people n=0 x=0 not=z
2|{A} before {B.g}.|{A} avant de {B.b}.|t=past,pres,fut,going x=0 n=0 v=do,intr,people|s=same v=intr,motion n=0 x=0
2|{A} after {B.g}.|{A} après {B.n}.|t=past,fut,going x=0 n=0 v=intr,people|s=same v=intr,do n=0 x=0
3|it +is {EASY} to {A.b}.|il est {EASY} de {A.b}.|s=you n=0 x=p v=do,intr,people not=orz
3|{A} and {B}.|{A} et {B}.|v=get t=past x=t n=0|v=show,lose,hide,sell,give s=same o=A t=past x=0 n=0
2|{A}, but {B}.|{A}, mais {B}.|v=lose,forget,look_for,hide t=past x=p n=0|v=find s=other o=A t=past,fut x=0 n=0
2|this +is {A.w} (that) {A}.|c'est {A.w} que {A}.|gap=the n=0 x=t t=past,perf,want v=do
2|where +is {A.w} (that) {A}?|où est {A.w} que {A} ?|gap=the n=0 x=t t=past v=get,do
4|{A} {B.t}.|{A} de {B.b}.|v=asking t=past,going,pres n=.1 x=0|s=obj n=.12 x=p v=do,intr,people not=oz
2|don't forget to {A.b}.|[n'oublie/n'oubliez] pas de {A.b}.|s=you n=0 x=p v=act not=oz
2|thank you for {A.g}.|merci de {A.n}.|s=you v=help,invite,wait_for,listen_to,call,talk_to,believe o=me n=0 x=0
2|I'm happy to {A.b}.|je suis content de {A.b}.|s=I n=0 x=p v=act not=oz
1|I'm sorry, but {A}.|je suis désolé, mais {A}.|s=I t=can,past,couldnt,want x=0 n=1 v=act not=z
2|{A} for {few} years.|{A} depuis {few} ans.|v=live,work,know,study,speak t=since,sinceg n=0 x=0
2|{A} for {few} hours.|{A} depuis {few} heures.|v=wait,sleep,work,read,walk,study,wait_for,cook t=sinceg n=0 x=0
2|{A} for {few} hours.|{A} pendant {few} heures.|v=sleep,work,walk,study,talk,swim,wait t=past,fut,going x=p n=0
5|{A}.|{A}.|s=thing+clothes+car+furniture+room+read+food+fragile v=quality t=pres,past,fut
3|{A}.|{A}.|s=furniture+room+read+staple+machine v=quality,graded t=pres,past
2|{A.y}?|est-ce que {A} ?|s=thing+clothes+car+furniture+room+read+food v=quality n=0 t=pres,past
3|{A}.|{A}.|s=thing+clothes+read+fragile+animal v=spot t=pres,past n=.15
2|{A}.|{A}.|s=event v=starting n=.1 t=pres,past,fut,going
1|what time {A.q}?|à quelle heure est-ce que {A} ?|s=event v=begin t=pres,past,fut,going n=0 x=0
2|{A}.|{A}.|s=thing+clothes+car+read v=owned t=pres x=0
4|{A}.|{A}.|v=weather
2|{A.y}?|est-ce que {A} ?|v=weather q= n=0
1|excuse me, where +is {the_sight}?|excusez-moi, où est {the_sight} ?
2|I +would like {a_food}, please.|je voudrais {a_food}, s'il vous plaît.
1|today +is {DAY}.|aujourd'hui, c'est {DAY}.
1|good morning, {NAME}.|bonjour, {NAME}.
1|happy birthday, {NAME}!|joyeux anniversaire, {NAME} !
"""

# A phrase in both languages, its person (1 I .. 6 they), French gender, noun class ("" people), and if it is a pronoun.
NP = namedtuple("NP", "en fr i g cls pron", defaults=(3, "m", "", False))
# A clause not yet in words: `gap` is what a question or relative took out of it, `mid` and `tail` are its adverbs.
Clause = namedtuple("Clause", "subj verb tense neg obj to gap mid tail")
# What one sentence is made with: a random source and the person of "you" (2 tu, 5 vous).
Ctx = namedtuple("Ctx", "r you")


def parse(text: str) -> dict[str, list[list[str]]]:
    """The sections of a table ("name: a=b=c, d=e name: ..."): for each name its entries, split at "="."""
    parts = re.split(r"(?:^|\s)(\w+): ", text.replace("\n", " "))[1:]
    lists = [[e if "=" in e else f"{e}={e.lstrip('~^_')}" for e in body.strip().split(", ")] for body in parts[1::2]]
    return {name: [e.split("=") for e in entries] for name, entries in zip(parts[::2], lists, strict=True)}


LEX, TENSE = parse(LEXICON), {name: rest for name, *rest in parse(TENSES)["tense"]}
DET, PEOPLE, PREPOSITIONS = {d[0]: d[1:] for d in LEX["DET"]}, ("", "kin", "role"), ("à", "de", "avec")
ADJ = {c: [a for a in LEX["adj"] if c in a[2].split("+")] for a in LEX["adj"] for c in a[2].split("+")}
VERB = {k: [(*v, "", "")[:4] for v in verbs] for k, verbs in parse(VERBS).items()}
VERB = {v[0].replace(" ", "_"): [v] for verbs in reversed(VERB.values()) for v in verbs[::-1]} | VERB
VERB["act"] = [v for k in ("do", "people", "dative", "intr", "motion") for v in VERB[k]]
ROW = [line.split("|") for line in ROWS.strip().split("\n")]
WEIGHTS = [int(row[0]) for row in ROW]
VOWEL = r"(?!huit|onze|haut|oui)[aeiouyhàâéèêëîïôûœ]"
ELIDE = re.compile(rf"(?<![\w'-])([jdnmtscl]e|la|que|si(?= il)) (?={VOWEL})", re.I)
INDEFINITE = re.compile(r"^(?:une? (?!peu)|des |du |de la |de l')")
SLOT = re.compile(r"(?:\b(à|de) )?\{(\w+)(?:\.(\w))?\}")
NOT_FR = {n[0]: n[1] for n in LEX["NOT"]}
NOT_EN = {"can": "can't", "will": "won't", "am": "aren't"}
AUX = {a[0]: a[1:] for a in LEX["AUX"]}
SHORT = {"am": "'m", "is": "'s", "are": "'re", "has": "'s", "have": "'ve", "will": "'ll", "would": "'d", "had": "'d"}
CONTRACT = re.compile(r"\b(I|you|he|she|it|we|they|(?:there|that|what|where|who|how)(?= \+is\b)) \+(\w+)\b", re.I)
COMPOUND = {"pc": "p", "pq": "i", "cp": "c"}
addToLexicon("pull", {"N": {"g": "m", "tab": "n3"}}, "fr")


@cache
def en_form(word: str, form: str) -> str:
    """An English form: of a verb b base, s third person, d past, n participle, g -ing; of a noun its plural, "p"."""
    loadEn()
    if form == "p":
        first, _, last = word.rpartition(" ")
        return f"{first} {N(last).n('p').realize()}".strip()
    tense = {"b": "b", "s": "p", "d": "ps", "n": "pp", "g": "pr"}[form]
    return V(word).t(tense).pe(3).realize().replace("travell", "travel")


@cache
def fr_verb(verb: str, tense: str, i: int = 3) -> str:
    """A French verb in a tense of pyrealb (b infinitive, pp participle, ip imperative), person i, without its "se"."""
    loadFr()
    return V(verb).t(tense).pe((i - 1) % 3 + 1).n("s" if i < 4 else "p").realize().split(" ")[-1]


@cache
def fr_noun(word: str, plural: bool) -> tuple[str, str]:
    """A French noun in the number asked for (its first word varies), and its gender (m where it has both)."""
    loadFr()
    first, _, more = word.replace("œ", "oe").partition(" ")
    form = f"{N(first).n('p').realize() if plural else first} {more}".strip().replace("oe", "œ")
    return form, "f" if (getLemma(first, "fr") or {})["N"]["g"] == "f" else "m"


@cache
def fr_adjective(word: str, g: str, plural: bool) -> tuple[str, bool]:
    """A French adjective agreed, and whether it stands before its noun."""
    loadFr()
    return A(word).g(g).n("p" if plural else "s").realize(), A(word).getProp("pos") == "pre" or word == "long"


@cache
def number(n: int) -> NP:
    """A number in words."""
    loadEn()
    en = NO(n).nat().realize()
    loadFr()
    return NP(en, NO(n).nat().realize())


def elide(fr: str) -> str:
    """French text in single spaces, with je, le, la, que ... elided."""
    return ELIDE.sub(lambda m: m[1][:-1] + "'", re.sub(" +", " ", fr))


def joined(prep: str, fr: str) -> str:
    """A French preposition (or none) and a phrase: au, aux, du, des, and no partitive after de."""
    text = f"{prep} " + (re.sub(r"^(?:des |du |de la |de l'|de )", "", fr) if prep == "de" else fr)
    for long, short in (("à le ", "au "), ("à les ", "aux "), ("de le ", "du "), ("de les ", "des ")):
        text = re.sub("^" + long, short, text)
    return text.strip()


def pro(np: NP) -> list[str]:
    """The pronouns of a phrase: English subject, object, possessive, French subject, direct, indirect, strong, own."""
    third = 2 + 4 * (np.g == "f") if np.cls in PEOPLE else 7 + (np.g == "f")
    return LEX["PRO"][{3: third, 6: 5 if np.g == "m" else 9}.get(np.i, np.i - 1)]


def pronoun(np: NP) -> NP:
    """The subject pronoun that stands for a phrase."""
    return np._replace(en=pro(np)[0], fr=pro(np)[3], pron=True)


def strong(np: NP) -> tuple[str, str]:
    """A phrase as an object or after a preposition, English and French, where its pronoun is him, lui."""
    return (pro(np)[1], pro(np)[6]) if np.pron else (np.en, np.fr)


def human(ctx: Ctx, pron: float, avoid: NP | None = None) -> NP:
    """People: with probability `pron` a pronoun (of another person than `avoid`), else a name, relatives or others."""
    r = ctx.r
    if r.random() < pron:
        i = r.choice([n for n in (1, 1, ctx.you, 3, 3, 4, 6) if not avoid or n in (3, 6) or (n - avoid.i) % 3])
        return pronoun(NP("", "", i, "f" if r.random() < {3: 0.5, 6: 0 if avoid else 0.12}.get(i, 0) else "m"))
    cls = r.choice(("NAME", "NAME", "kin", "kin", "role"))
    if cls == "NAME":
        en, fr, g = r.choice(LEX[cls])
        return NP(en, fr, 3, g)
    return noun_phrase(ctx, cls, "own" if cls == "kin" else r.choice(("the", "the", "this", "that", "a")))


def noun_phrase(ctx: Ctx, cls: str, det: str | NP, plural: bool | None = None, adj: float = 0.18) -> NP:
    """A noun of a class after a determiner (of DET), a quantity ("q" or of LEX) or a possessive (owner or "own")."""
    r = ctx.r
    if det == "own":  # mostly mine
        det = NP("", "", r.choice((1, 1, 1, 1, ctx.you, 3, 3, 4)), r.choice("mf"))
    en, fr = r.choice([n for n in LEX[cls] if plural is not False or n[0][0] != "^"])
    mark, en = (en[0], en[1:]) if en[0] in "~^_" else ("", en)
    plural = mark == "^" or (mark == "" and (r.random() < 0.22 if plural is None else plural))
    if det == "q":
        plural = mark in ("", "^")
        vessel = {"drink": "GLASS", "hot": "CUP"}.get(cls, "MUCH")
        det = "MANY" if plural else vessel if r.random() < 0.6 else "MUCH"
    if isinstance(det, NP):
        forms = [pro(det)[2]] * 2 + pro(det)[7].split(" ")
    elif det in LEX:
        quantity = r.choice(LEX[det])
        forms = [quantity[0]] * 2 + [quantity[1]] * 3
    else:
        forms = DET["some" if det == "a" and mark == "~" else det]
    word, g = fr_noun(fr, plural)
    d, en = forms[4 if plural else 2 + (g == "f")], en_form(en, "p") if plural else en
    if cls in ADJ and r.random() < adj:
        en_adj, fr_adj, _ = r.choice(ADJ[cls])
        agreed, before = fr_adjective(fr_adj, g, plural)
        if re.match(VOWEL, word):
            agreed = {"beau": "bel", "nouveau": "nouvel", "vieux": agreed if plural else "vieil"}.get(agreed, agreed)
        d = "de" if before and d == "des" else d
        word, en = f"{agreed} {word}" if before else f"{word} {agreed}", f"{en_adj} {en}"
    if re.match(VOWEL, word):
        d = {"ce": "cet", "ma": "mon", "ta": "ton", "sa": "son"}.get(d, d)
    fr = re.sub("^de le ", "du ", elide(f"{d} {word}"))
    return NP(f"{forms[plural]} {en}".strip(), fr.strip(), 6 if plural else 3, g, cls)


def slot(ctx: Ctx, key: str, subj: NP | None = None, neg: str = "") -> NP:
    """A slot's or verb's phrase: a number, people, a thing of a class, "determiner_class" or an entry of LEX."""
    r = ctx.r
    if key in ("num", "few", "hour"):
        return number(r.randint(*{"num": (13, 90), "few": (2, 9), "hour": (2, 11)}[key]))
    if key == "person":
        return human(ctx, 0.45, subj)
    if key == "who":
        return NP(*strong(human(ctx, 0.35, subj)))
    if key == "GEN":
        return noun_phrase(ctx, r.choice(("food", "staple", "drink", "hot", "animal")), "gen", True, 0)
    if key == "TO":
        there = slot(ctx, "AT")
        return there._replace(en=re.sub("^(at|in) ", "to ", there.en).replace("to home", "home"))
    if "_" in key:
        det, cls = key.split("_")
        det, plural = ("a", True) if det == "q" and neg else (det, None if det == "q" else False)
        return noun_phrase(ctx, cls, det, plural, 1 if det == "what" else 0.18)
    if key.islower():
        own = subj if subj and subj.cls in PEOPLE else "the"
        if r.random() < 0.14:
            return pronoun(noun_phrase(ctx, key, "the")._replace(g="m"))
        if LEX[key][0][0][0] == "_":
            return noun_phrase(ctx, key, "the" if key in ("ride", "sight") else r.choice(("the", "the", own)))
        dets = ("the", "the", "a", "a", "a", own, own, "this", "that", "a" if neg else "q")
        return noun_phrase(ctx, key, r.choice(dets))
    if key == "JOB" and subj and subj.i in (4, 6):
        key = "STATUS"
    thing = subj and subj.cls in ADJ and subj.cls not in PEOPLE and key in ("ADJ", "MOOD")
    en, fr, *_ = r.choice([a for a in ADJ[subj.cls] if a[0] != "new"] if subj and thing else LEX[key])
    en, fr = fill(ctx, en, "*" + fr if thing else fr, {}, subj)
    if subj:
        fr = re.sub(r"(\S+)/(\S+)", r"\2" if subj.g == "f" else r"\1", fr)
        fr = re.sub(r"\*(\w+)", lambda m: fr_adjective(m[1], subj.g, subj.i in (4, 6))[0], fr)
    return NP(en, fr)


def fill(ctx: Ctx, en: str, fr: str, bound: dict, subj: NP | None = None) -> tuple[str, str]:
    """Both templates with their slots filled alike, from `bound` or by `slot`; a letter after "." says how."""

    def text(m: re.Match, lang: int) -> str:
        prep, key, how = m.groups("")
        if key not in bound:
            bound[key] = slot(ctx, key, subj)
        value = bound[key].gap if how == "w" else pronoun(bound[key]) if how == "p" else bound[key]
        words = (english, french)[lang](value, how) if isinstance(value, Clause) else value[lang]
        return joined(prep, words) if lang else f"{prep} {words}".strip()

    return SLOT.sub(lambda m: text(m, 0), en), SLOT.sub(lambda m: text(m, 1), fr)


def subject(ctx: Ctx, want: str, q: bool, flags: str, first: Clause | None) -> NP:
    """The subject wanted: same as in the `first` clause, its obj, other than it, third person, of classes, any ..."""
    r = ctx.r
    if want in ("same", "obj") and first:
        return pronoun(first.obj if want == "obj" and first.obj else first.subj)
    if "y" in flags:
        return NP("it", "il", cls="thing", pron=True)
    if want in ("I", "you", "we"):
        return pronoun(NP("", "", {"I": 1, "you": ctx.you, "we": 4}[want]))
    if want == "who":
        return NP("who", "qui")
    if want in LEX or "+" in want:
        return noun_phrase(ctx, r.choice(want.split("+")), r.choice(("the", "this", "own")), None, 0)
    if want == "any" and "a" in flags and r.random() < 0.25:
        return noun_phrase(ctx, "animal", r.choice(("the", "own")))
    if want == "any" and r.random() < 0.05:
        return slot(ctx, "ONE")._replace(cls="any")
    while True:
        np, two = human(ctx, 0.58), human(ctx, 0)
        if not np.pron and np.fr != two.fr and r.random() < 0.08:
            return NP(f"{np.en} and {two.en}", f"{np.fr} et {two.fr}", 6, "f" if np.g == two.g == "f" else "m")
        rare = (1, 4) if q and r.random() < 0.7 else ()
        if np.i not in {"third": (1, 2, 4, 5), "other": (first.subj.i if first else 1,)}.get(want, rare):
            return np


def adverbs(ctx: Ctx, want: str, flags: str, tense: str, neg: str, subj: NP) -> tuple[NP, NP]:
    """What goes inside a clause (often, already) and what ends it (place, company, manner, time)."""
    r, mid, tail, group = ctx.r, NP("", ""), [], TENSE[tense][2]
    place = {"p": "AT", "w": "WITH", "l": "HOUR", "b": "BY"} | ({} if neg else {"h": "HOW"})
    kinds = [place[f] for f in flags if f in place]
    if kinds and "p" in want and r.random() < 0.4:
        tail.append(slot(ctx, r.choice(kinds), subj))
    if "s" in flags:
        group = {"PRES": "STATE"}.get(group, group) if "t" in flags else ""
    elif tense == "perf" and not neg and r.random() < 0.3:
        mid = NP("already", "déjà")
    elif tense == "pres" and not neg and "t" in want and "y" not in flags and r.random() < 0.35:
        mid, group = slot(ctx, "OFTEN"), ""
    habit = group == "PRES"
    if group and "t" in want and neg not in ("never", "no longer", "anymore") and not (habit and "o" in flags):
        tail += [slot(ctx, group)] * (r.random() < (0.7 if habit else 0.4))
    return mid, NP(" ".join(t.en for t in tail), " ".join(t.fr for t in tail))


def clause(ctx: Ctx, spec: dict[str, str], first: Clause | None) -> Clause:
    """Plan a clause that meets `spec` (see ROWS); `first` is the clause planned before it in the sentence, if any."""
    r, gap, n, obj = ctx.r, spec.get("gap", ""), spec.get("n", ".2"), None
    while True:
        verb = r.choice(VERB[r.choice(spec.get("v", "act,act,act,act,mind,be").split(","))])
        kind, flags, prep = r.choice(verb[2].split("+")), verb[3], verb[1].split(" ")[-1]
        prep = prep if prep in PREPOSITIONS else ""
        state = set(flags + n * (n in "01") + "q" * ("q" in spec) + "K" * ("k" not in flags))
        wanted = spec["t"].split(",") if "t" in spec else [t for t in TENSE if TENSE[t][4] != "0"]
        tenses = [t for t in wanted if not state & set(TENSE[t][3])]
        out = kind == "person" if gap == "who" else kind in LEX and kind.islower() and not (gap == "the" and prep)
        out = out and not (gap == "howmany" and LEX[kind][0][0][0] == "_")
        fits = set(spec.get("f", "")) <= set(flags) and not set(spec.get("not", "")) & set(flags)
        if tenses and fits and (out or not gap):
            break
    tense = r.choices(tenses, [max(1, int(TENSE[t][4])) for t in tenses])[0]
    subj, neg, bar = subject(ctx, spec.get("s", ""), "q" in spec, flags, first), "", TENSE[tense][3]
    if subj.fr != "personne" and ("0" in bar or ("1" not in bar and r.random() < float(n))):
        never = "not" if "i" in flags and "t" not in flags else "never"
        more = {"perf": [never, "yet"], "past": ["not", never], "pres": ["not", never, "no longer", "anymore"]}
        neg = r.choice(["not", "not", *more.get(tense, [])]) if "q" not in spec else "not"
    if "o" in spec:
        obj = pronoun(first.obj if spec["o"] == "A" and first else NP("", "", r.choice((1, 4))))
    elif kind and not gap:
        obj = slot(ctx, kind, subj, neg)
        plain = not prep and "s" not in flags and " de " not in TENSE[tense][1] and kind.islower()
        if neg == "not" and plain and r.random() < 0.12:
            neg = "nobody" if kind == "person" else "nothing"
            obj = NP("anybody", "personne") if kind == "person" else NP("anything", "rien")
    gone: NP | None = None
    if gap in ("what", "who"):
        gone = NP(gap, "qui" if gap == "who" else "quoi" if prep else "que")
    elif gap:
        gone = noun_phrase(ctx, kind, gap, gap == "howmany")
    gone = gone and gone._replace(fr=joined(prep, gone.fr))
    to = human(ctx, 0.6, subj) if verb in VERB["dative"] else None
    mid, tail = adverbs(ctx, spec.get("x", "pt"), flags, tense, neg, subj)
    return Clause(subj, verb, tense, neg, obj, to, gone, mid, tail)


def english(c: Clause, how: str = "") -> str:
    """A clause in English: "" statement, y yes-no or q other question, i imperative, b base, g -ing, t and s with "to".

    "s" keeps the subject before "to". "+" marks what `sentence` may contract.
    """
    aux, *link, shape = TENSE[c.tense][0].split(" ")
    head, *more = [pro(c.subj)[2] if w == "one's" else w for w in c.verb[0].split(" ")]
    rest, particle = [w for w in more if w[0] != "~"], [w[1:] for w in more if w[0] == "~"]
    if c.obj:
        obj = strong(c.obj)[0]
        obj = re.sub("^some ", "any ", obj) if c.neg or how == "y" or c.subj.fr == "personne" else obj
        particle.insert(0 if c.obj.pron else len(particle), obj)
    rest += particle
    if c.to and c.to.pron and c.obj and not c.obj.pron and "d" not in c.verb[3]:
        rest.insert(-1, strong(c.to)[0])
    elif c.to:
        rest += ["to", strong(c.to)[0]]
    rest += [c.tail.en, c.neg if c.neg in ("yet", "anymore") else ""]
    if how in ("i", "b", "g", "t", "s", "n"):
        let = how == "i" and c.subj.i == 4
        lead = {"i": "let's" if let else "", "s": strong(c.subj)[0]}.get(how, "")
        no = "+do +not" if how == "i" and not let else "not"
        to = "to" if how in "ts" else ""
        return " ".join([lead, no if c.neg else "", to, en_form(head, "g" if how == "g" else "b"), *rest])
    words = [*link, en_form(head, shape)]
    if head == "be" and not link and aux in ("do", "did"):
        aux, words = "be" if aux == "do" else "was", []
    aux = AUX[aux][c.subj.i - 1] if aux in AUX else aux
    negated = c.neg not in ("", "never", "no longer")
    if aux in ("do", "does", "did") and not how and not negated:
        words[0], aux = en_form(words[0], {"do": "b", "does": "s", "did": "d"}[aux]), ""
    words = [c.neg if c.neg in ("never", "no longer") else c.mid.en, *words, *rest]
    if how:
        return " ".join([NOT_EN.get(aux, aux + "n't") if negated else "+" + aux, c.subj.en, *words])
    return " ".join([c.subj.en, "+" + aux if aux else "", "+not" if negated else "", *words])


def french(c: Clause, how: str = "") -> str:
    """A clause in French: i imperative, n past infinitive, b, g, t infinitive, else a statement (also in questions)."""
    *lead, tense = TENSE[c.tense][1].split(" ")
    tense = ("i" if "i" in c.verb[3] else "pc") if tense == "past" else tense
    words: list[str] = c.verb[1].split(" ")
    i, mine = c.subj.i, pro(c.subj)
    reflexive = words[0] == "se"
    head, *more = words[reflexive:]
    if "one's" in c.verb[0]:
        own: dict[str, str] = dict(zip(("son", "sa", "ses"), mine[7].split(" "), strict=True))
        more = [own.get(w, w) for w in more]
    prep = more.pop() if words[-1] in PREPOSITIONS else ""
    negated = (c.neg or c.subj.fr == "personne") and head not in ("être", "jouer")
    rest = [INDEFINITE.sub("de ", " ".join(more)) if negated else " ".join(more)]
    clitics = ["se" if i in (3, 6) else mine[4]] if reflexive else []
    if c.obj and c.obj.pron and prep and c.obj.cls not in PEOPLE:
        clitics.append("en" if prep == "de" else "y")
    elif c.obj and c.obj.pron and (not prep or (prep == "à" and "g" not in c.verb[3])):
        clitics.append(pro(c.obj)[5 if prep else 4])
    elif c.obj and c.neg != "nothing":
        obj = strong(c.obj)[1]
        rest.append(joined(prep, obj) if prep or not negated else INDEFINITE.sub("de ", obj))
    if c.to:
        (clitics if c.to.pron else rest).append(pro(c.to)[5] if c.to.pron else joined("à", c.to.fr))
    rest.append(c.tail.fr)
    clitics.sort(key=lambda w: 1 if w in ("le", "la", "les") else 2 if w in ("lui", "leur") else 0)
    # The participle agrees with the subject after être, else with a direct object that stands before the verb.
    being = reflexive or (getLemma(head, "fr") or {})["V"]["aux"] == "êt" or head in ("sortir", "rentrer")
    direct = None if prep else c.obj if c.obj and c.obj.pron else c.gap if c.gap and c.gap.cls else None
    agree = (None if reflexive and more else c.subj) if being else direct
    pp = fr_verb(head, "pp") + ("e" if agree and agree.g == "f" else "")
    pp += "s" if agree and agree.i in (4, 6) and pp[-1] != "s" else ""
    aux, no = "être" if being else "avoir", NOT_FR.get(c.neg, "")
    if how == "i" and c.neg:
        return " ".join(["ne", *clitics, fr_verb(head, "ip", i), no, *rest])
    if how == "i":
        clitics.sort(key=lambda w: w not in ("le", "la", "les"))
        clitics[-1:] = [{"me": "moi", "te": "toi"}.get(w, w) for w in clitics[-1:]]
        return " ".join(["-".join([fr_verb(head, "ip", i), *clitics]), *rest])
    if how in ("b", "g", "t", "n"):
        verbs = [fr_verb(aux, "b"), pp] if how == "n" else [fr_verb(head, "b")]
        return " ".join(["ne pas" if c.neg else "", *clitics, *verbs, *rest])
    aux, pp = ("avoir", fr_verb(lead[0], "pp")) if lead else (aux, pp)
    before, after = ([], [*lead[1:], *clitics, fr_verb(head, "b")]) if lead else (clitics, [])
    if tense in COMPOUND:
        finite = fr_verb(aux, COMPOUND[tense], i)
    else:
        finite, pp = fr_verb((lead or [head])[0], tense, i), ""
    ne = "ne" if c.neg or c.subj.fr == "personne" else ""
    return " ".join([c.subj.fr, ne, *before, finite, no, c.mid.fr, pp, *after, *rest])


def sentence(ctx: Ctx) -> tuple[str, str]:
    """One pair: a row chosen by weight, its clauses planned and its slots filled, both sides' spelling finished."""
    r = ctx.r
    bound: dict = {}
    _, en, fr, *specs = r.choices(ROW, WEIGHTS)[0]
    for name, spec in zip("AB", specs, strict=False):
        bound[name] = clause(ctx, dict(o.split("=") for o in spec.split()), bound.get("A"))
    en = re.sub(r"\((.*?)\)", r"\1" if r.random() < 0.5 else "", en)
    en, fr = fill(ctx, en, fr, bound)
    fr = re.sub(r"\[(.*?)/(.*?)\]", r"\1" if ctx.you == 2 else r"\2", fr)
    en = re.sub(" +(?=[ ?!])", "", en)
    if r.random() < 0.67:
        en = re.sub(r"\+(\w+) \+not", lambda m: "+am not" if m[1] == "am" else NOT_EN.get(m[1], m[1] + "n't"), en)
        en = CONTRACT.sub(lambda m: m[1] + SHORT[m[2]] if m[2] in SHORT else m[0], en)
    en = re.sub(r"\b([Aa]) (?=[aeiouAEIO])", r"\1n ", en.replace("+", "").replace("can not", "cannot"))
    en, fr = (re.sub(r" +([.,])", r"\1", text).strip() for text in (en, elide(fr)))
    en, fr = (re.sub(r"(^|[.?!] )(\w)", lambda m: m[1] + m[2].upper(), text) for text in (en, fr))
    return en, fr


def sentences(n: int, seed: int) -> list[tuple[str, str]]:
    """n distinct (English, French) pairs, the same for the same seed."""
    r = random.Random(seed)
    found: dict[tuple[str, str], None] = {}
    while len(found) < n:
        found[sentence(Ctx(r, 2 if r.random() < 0.8 else 5))] = None
    return list(found)
